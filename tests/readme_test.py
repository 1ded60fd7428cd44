"""Commands of the README, run with the smallest sizes."""

import json
import pathlib
import re
import shlex

from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax.launch import cli
from sana_jax.tree import flatten

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
SMALLER = {
  'sample': ['--steps', '2'],
  'evaluate': ['--per-kind', '1', '--num-images', '1', '--steps', '2'],
  'data': ['--examples', '32'],
  'zoo': [],
  'convert': [],
  'train': [
    '--config.num_steps=2',
    '--config.data.examples=32',
    '--config.batch_size=8',
    '--config.model.depth=2',
    '--config.model.unroll=1',
    '--config.optimizer.warmup_steps=0',
    '--config.sampling.steps=1',
    '--config.sampling.images=6',
  ],
}


def blocks(language, page=README):
  return re.findall(rf'```{language}\n(.*?)```', page, re.DOTALL)


def commands(page=README):
  text = '\n'.join(blocks('bash', page)).replace('\\\n', ' ')
  return [line.partition(' #')[0] for line in text.splitlines() if line]


@pytest.mark.docs
@pytest.mark.parametrize(
  'line', [c for c in commands() if c.startswith('sana-jax ')]
)
def test_each_command_of_the_readme_runs(line, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  _, *arguments = shlex.split(line)
  more = SMALLER[arguments[0]]
  if arguments[0] == 'train':
    more = [*more, f'--config.data.path={tmp_path / "data"}']
  assert cli.main([*arguments, *more]) == 0, capsys.readouterr().err


@pytest.mark.docs
def test_the_commands_of_the_page_on_weights_run(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  page = (ROOT / 'docs' / 'weights.md').read_text()
  lines = commands(page)
  assert len(lines) == 7
  for line in lines:
    assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
  for path in (ROOT / 'sana_jax' / 'assets' / 'shapes').rglob('*'):
    for folder in ('again', 'third'):
      again = (
        tmp_path
        / 'out'
        / folder
        / path.relative_to(ROOT / 'sana_jax' / 'assets' / 'shapes')
      )
      assert path.is_dir() or again.read_bytes() == path.read_bytes()


@pytest.mark.docs
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (code,) = blocks('python')
  exec(code, {})
  with Image.open('out.png') as image:
    assert image.size == (128, 128)


def test_the_scripts_and_files_that_the_readme_names_exist():
  for line in commands():
    if line.startswith('launch/'):
      assert (ROOT / line.split()[0]).stat().st_mode & 0o100, line
  folders = 'sana_jax|kernels|configs|launch|docs'
  for path in re.findall(rf'`((?:{folders})/[\w./]*)`', README):
    assert (ROOT / path).exists(), path


@pytest.mark.docs
@pytest.mark.parametrize(
  'name, count', [('kernels', 4), ('optimizers', 2), ('training', 1)]
)
def test_the_commands_of_a_page_run(name, count, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  page = (ROOT / 'docs' / f'{name}.md').read_text()
  assert len(commands(page)) == count
  for line in commands(page):
    _, *arguments = shlex.split(line)
    more = SMALLER.get(arguments[0], [])
    if arguments[:2] == ['bench', 'kernels']:
      more = ['--repeats', '1', '--passes', 'forward']
    if arguments[0] == 'train':
      more = [
        '--config.num_steps=2',
        '--config.text.examples=32',
        '--config.optimizer.warmup_steps=0',
        '--config.model.depth=1',
        '--config.batch_size=8',
      ]
    assert cli.main([*arguments, *more]) == 0, capsys.readouterr().err


@pytest.mark.docs
def test_the_page_on_watching_runs_and_names_every_metric(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  page = (ROOT / 'docs' / 'watching.md').read_text()
  (line,) = commands(page)
  _, *arguments = shlex.split(line)
  assert (
    cli.main(
      [
        *arguments,
        '--config.num_steps=3',
        '--config.text.examples=32',
        '--config.batch_size=8',
        '--config.model.depth=1',
        '--config.optimizer.warmup_steps=0',
      ]
    )
    == 0
  ), capsys.readouterr().err
  assert list((tmp_path / 'out/watched/profile/step_000002').rglob('*.pb'))
  found = json.loads((tmp_path / 'out/watched/metrics.jsonl').read_text())
  of_task = {'next_token', 'own_token', 'earliest_token'}
  unnamed = {
    name
    for name in found
    if f'`{name}`' not in page
    and not (
      name.startswith(('grad_norm/', 'step_seconds/')) or name in of_task
    )
  }
  assert not unnamed
  for key in re.findall(r'^\| `([\w.]+)` \| \d+ \|', page, re.MULTILINE):
    assert key in flatten(base.train('sana'), '.'), key


def test_the_scores_of_the_readme_are_those_of_the_shipped_model():
  scores = json.loads((ROOT / 'docs' / 'scores.json').read_text())['scores']
  overall = f'{100 * scores["overall"]["accuracy"]:.1f} %'
  assert overall in README
