"""Extras: every message and page names one that can be installed."""

import configparser
import pathlib
import re
import sys

import pytest

from sana_jax import extras
from sana_jax.analysis import topologies
from sana_jax.errors import UserError
from sana_jax.launch import cli as commands
from sana_jax.launch import parity

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parents[1]
PINS = (ROOT / 'constraints.txt').read_text()


def declared():
  """The extras of setup.cfg: lists of distributions, by name."""
  config = configparser.ConfigParser(inline_comment_prefixes='#')
  config.read(ROOT / 'setup.cfg')
  return {
    name: lines.split()
    for name, lines in config['options.extras_require'].items()
  }


def texts():
  for folder in ('sana_jax', 'kernels', 'launch', 'configs', 'docs'):
    for path in (ROOT / folder).rglob('*'):
      if path.suffix in ('.py', '.md', '.sh', '') and path.is_file():
        yield path, path.read_text('utf-8', errors='ignore')
  yield ROOT / 'README.md', (ROOT / 'README.md').read_text()


def test_no_text_installs_a_package_that_is_not_published():
  found = [
    (str(path), line)
    for path, text in texts()
    for line in re.findall(r"[^\n]*install\s+'?sana_jax[^\n]*", text)
  ]
  assert not found


def test_every_extra_that_a_text_installs_exists():
  names = set(declared())
  found = {
    extra
    for _, text in texts()
    for group in re.findall(r"'\.\[([\w,]+)\]'", text)
    for extra in group.split(',')
  }
  assert {'train', 'tpu', 'gpu', 'demo'} <= found <= names


def test_the_extra_of_each_package_is_that_of_setup_cfg():
  for package, extra in extras.EXTRAS.items():
    names = declared()[extra]
    if extra in ('tpu', 'gpu'):  # Of JAX's own extra.
      continue
    name = {'skimage': 'scikit-image'}.get(package, package)
    assert {name, name.replace('_', '-')} & set(names), package
  assert '[tpu]' in extras.install('tpu')


def test_what_training_writes_with_is_in_its_extra():
  for package in ('tensorboard', 'clu', 'matplotlib'):
    assert package in declared()['train']
    assert extras.missing(f'{package}.x').key == 'train'


@pytest.mark.parametrize(
  'extra, plugin', [('gpu', 'cuda13'), ('cuda12', 'cuda12')]
)
def test_both_versions_of_cuda_have_an_extra_with_pins(extra, plugin):
  assert declared()[extra] == [f'jax[{plugin}]']
  jax = re.findall(r'^jax==(\S+); (.*)$', PINS, re.MULTILINE)
  assert len(jax) == 2
  for package in ('plugin', 'pjrt'):
    name = f'jax-{plugin}-{package}'
    assert re.findall(rf'^{name}==(\S+); (.*)$', PINS, re.MULTILINE) == jax


@pytest.mark.parametrize(
  'package, extra',
  [
    ('gradio', 'demo'),
    ('uvicorn', 'demo'),
    ('grain', 'train'),
    ('torch.nn', 'parity'),
  ],
)
def test_a_command_names_the_extra_of_a_missing_package(
  package, extra, monkeypatch, capsys
):
  def run(argv):
    raise ModuleNotFoundError('none', name=package)

  monkeypatch.setattr(commands, 'run', run)
  assert commands.main(['train']) == 2
  assert capsys.readouterr().err == (
    f'sana-jax: error: This needs the package {package}; install it with pip '
    f"install -e '.[{extra}]' -c constraints.txt in a clone.\n"
  )


def test_parity_and_topologies_name_theirs(monkeypatch):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError) as refused:
    topologies.check('v5e:2x2')
  assert (refused.value.key, refused.value.value) == ('tpu', 'libtpu')
  with pytest.raises(UserError) as refused:
    topologies.check('h200:1x1x1')
  assert refused.value.key == 'gpu'
  monkeypatch.setattr(parity, 'AREAS', ('optim',))
  monkeypatch.setitem(sys.modules, 'torch', None)
  monkeypatch.delitem(sys.modules, 'sana_jax.tools.parity.optim', False)
  with pytest.raises(UserError) as refused:
    parity.all_cases()
  assert refused.value.key == 'parity'
