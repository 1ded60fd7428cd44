"""Hostile text in every field of sana-jax launch runs nothing.

A field is refused in one sentence, and nothing is written, or it arrives at
training as it was given: scripts are run by a real shell with tools that do to
text what sbatch, kubectl, xpk and gcloud do.
"""

import contextlib
import importlib.util
import io
import pathlib
import re
import sys
from typing import NamedTuple

from launch_fields import (
  BREAKS,
  CONFIG,
  FIELDS,
  HERE,
  LEGAL,
  ODD,
  REFUSED,
  RUNS,
  TOPOLOGY,
)
import pytest

from sana_jax.launch import cli, supervise, tpu_vm
from sana_jax.printable import printable


@pytest.fixture(scope='module')
def fakes():
  """The module launch_fakes.py."""
  path = pathlib.Path(__file__).with_name('launch_fakes.py')
  spec = importlib.util.spec_from_file_location('launch_fakes', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Launched(NamedTuple):
  """What came of a launch: its exit code, output and training's arguments."""

  code: int
  out: str
  err: str
  trained: list[list[str]]


@pytest.fixture
def launch(fakes, tmp_path, monkeypatch):
  """Launches with fields and runs what comes of it to its end."""

  def execvp(_, words):
    cloud.run(*words, cwd='.')
    raise SystemExit(0)

  monkeypatch.setattr(tpu_vm.os, 'execvp', execvp)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  cloud = fakes.Cloud(tmp_path / 'cloud')
  monkeypatch.setenv('PATH', cloud.path)
  count = iter(range(10**6))

  def launch(place, **more):
    cloud.clear()
    base = tmp_path / f'{next(count)}'
    fields = FIELDS[place] | more
    work = base / 'work' / fields.get('folder', 'here')
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    if 'python' in fields:
      python = base / fields['python']
      cloud.put(python)
      monkeypatch.setattr(sys, 'executable', str(python))
    if place in ('slurm', 'local'):
      (work / fields['config'].partition(':')[0]).write_text(CONFIG)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      try:
        code = cli.main(arguments(place, fields))
      except SystemExit as e:
        code = e.code
    out, err = out.getvalue(), err.getvalue()
    if code == 0:
      _finish(place, cloud, fields, out)
    found = Launched(code, out, err, cloud.calls('trained'))
    assert not cloud.attacked
    check(place, fields, found, base)
    return found

  return launch


def arguments(place, fields):
  """The command line, each value in the word of its flag."""
  where = 'gke' if place == 'xpk' else place
  words = [
    'launch',
    f'--where={where}{fields["where"]}',
    '--no-plan',
    f'--topology={TOPOLOGY.get(place, "v5e:4x4")}{fields["topology"]}',
  ]
  words += ['--xpk'] * (place == 'xpk') + ['--dry-run'] * (place == 'local')
  words += [
    f'--{key}={value}'
    for key, value in fields.items()
    if key not in ('where', 'topology', 'override', 'key', 'folder', 'python')
  ]
  return [*words, *cache(place), override(fields)]


def cache(place):
  """Data that machines elsewhere can have."""
  far = place in ('gke', 'xpk', 'tpu-vm')
  return ['--config.inputs.cache=gs://bucket/cache'] * far


def override(fields):
  return f'--config.data.split{fields["key"]}={fields["override"]}'


def _finish(place, cloud, fields, out):
  """Has the place run what it was given; other options are never there."""
  name = fields['name']
  used = 'out' if place != 'local' or '://' in fields['workdir'] else 'workdir'
  folder = pathlib.Path(fields[used]).expanduser().absolute()
  if place == 'slurm':
    options = cloud.slurm()
    log = str(folder / 'logs/job.log')
    assert options == {
      'job-name': name,
      'ntasks': '2',
      'nodes': '2',
      'ntasks-per-node': '1',
      'gpus-per-node': '8',
      'exclusive': '',
      'mem': '0',
      'requeue': '',
      'time': fields['time-limit'],
      'partition': fields['partition'],
      'account': fields['account'],
      'open-mode': 'append',
      'output': log,
      'signal': 'B:USR1@300',
    }
    assert '%' not in str(folder)
  elif place == 'gke':
    manifest, container = cloud.kubernetes()
    assert manifest['metadata']['name'] == name
    assert container['image'] == fields['image']
    assert manifest['kind'] == 'JobSet' and len(manifest) == 4
  elif place == 'xpk':
    cloud.run('bash', '-c', out)
    options = cloud.xpk()
    assert {
      k: options[k] for k in ('workload', 'cluster', 'zone', 'project')
    } == {
      k: fields.get(k, name) for k in ('workload', 'cluster', 'zone', 'project')
    }
    assert options['docker-image'] == fields['image']
  elif place == 'tpu-vm':
    assert (cloud.folder / 'image').read_text() == fields['image']
    for words in cloud.calls('gcloud'):
      assert words[:3] == ['compute', 'tpus', 'queued-resources'] or (
        words[:2] == ['auth', 'configure-docker']
      ), words
  else:
    (folder / 'logs').mkdir(parents=True)
    cloud.run('bash', '-c', out, cwd='.')
  if place in ('slurm', 'gke', 'tpu-vm'):
    flags, command = supervised(cloud)
    assert flags.workdir == fields['workdir']
    notes = {
      'slurm': f'{folder}/attempts-7',
      'tpu-vm': f'{folder}/attempts',
      'gke': fields['workdir'].rstrip('/') + '/attempts-uid',
    }[place]
    assert flags.notes == f'{notes}.json'
    assert flags.process == ('1-3' if place == 'gke' else '0')
    if place == 'slurm':
      assert flags.stop_with == ['scancel', '--signal=TERM', '7']
      assert f'--output={folder}/logs/process-%t.log' in command


def supervised(cloud):
  """What the scripts told supervise: its flags, and the command."""
  words = next(w[4:] for w in cloud.calls('python') if w[3].endswith('vise'))
  at = words.index('--')
  return supervise.parser().parse_args(words[:at]), words[at + 1 :]


def check(place, fields, found, base):
  """Raises AssertionError unless it was refused or arrived as it was given."""
  assert printable(found.err, keep='\n') == found.err
  if found.code:
    assert found.code == 2 and found.err.count('\n') == 1, found.err
    assert len(found.err) < 4000 and not found.trained
    assert not [
      p for p in base.rglob('job*') if p.suffix in ('.sh', '.sbatch', '.yaml')
    ]
    return
  assert printable(found.out, most=10**6, keep='\n') == found.out
  more = {'local': '--cpu-devices=2'}.get(place, '--distributed')
  assert found.trained == [
    [
      'train',
      f'--config={fields["config"]}',
      f'--workdir={fields["workdir"]}',
      f'--layout={fields["layout"]}',
      more,
      *cache(place),
      override(fields),
    ]
  ]


def hostile_text(rng, field, value):
  """A value that begins like a legal one, or not, and goes on as none does."""
  if not rng.randrange(12):
    return value + rng.choice('xé') * rng.choice((64, 300, 5000, 200_000))
  free = field in ('override', 'workdir', 'out', *HERE)
  pool = LEGAL if rng.random() < (0.8 if free else 0.5) else RUNS + BREAKS + ODD
  text = ''.join(rng.choice(pool) for _ in range(rng.randint(1, 4)))
  if not rng.randrange(3):
    text = rng.choice(RUNS) + text
  start = rng.choice((value, value, value, ''))
  return start + text if rng.random() < 0.8 else text + start


def possible(field, text):
  """Whether there can be such a file, folder or Python at all."""
  if field not in ('config', 'folder', 'python'):
    return True
  return '\0' not in text and len(text.encode(errors='replace')) < 200


def test_hostile_text_in_a_field_runs_nothing(hostile, launch):
  for place in FIELDS:  # Imports are no part of a case's time.
    assert launch(place).code == 0
  for rng in hostile.cases(38, 380):
    place = rng.choice([*FIELDS])
    more = {}
    for field in rng.sample([*FIELDS[place]], rng.choice((1, 1, 1, 2, 3))):
      text = hostile_text(rng, field, FIELDS[place][field])
      if field in ('config', 'folder', 'python'):
        text = text.replace('/', '_')
      if field == 'config' and place in ('slurm', 'local'):
        name, colon, rest = text.partition(':')
        text = f'{name}.py{colon}{rest}'
      if possible(field, text):
        more[field] = text
    print(place, ascii(more)[:200])
    launch(place, **more)


ODDITY = (
  'it\'s "a" $HOME $(canary) `canary`; $$ $$(HOST) $(HOST) #1 * é🎉 {x} \\n %'
)


@pytest.mark.parametrize('place', FIELDS)
def test_a_legal_value_arrives_as_it_was_given(place, launch):
  # `launch` compares what training is given.
  more = {'override': ODDITY, 'workdir': f'{FIELDS[place]["workdir"]} {ODDITY}'}
  assert launch(place, **more).code == 0
  assert launch(place, override="'" * 4096, name='null').code == 0
  bucket = 's3://my.bucket-1/' + re.sub('[*#]', '', ODDITY)
  assert launch(place, override='', workdir=bucket).code == 0
  if 'folder' in FIELDS[place]:
    odd = ODDITY if place != 'slurm' else ODDITY.partition('\\')[0] + '.'
    assert launch(place, folder=odd, python=f'{odd}/python').code == 0
  if place in ('slurm', 'local'):
    assert launch(place, config='-$(canary) \'"#`.py:' + ODDITY).code == 0
  if place != 'xpk':
    out = '--out $(canary) \'" #`canary`;' + '\\%' * (place != 'slurm')
    assert launch(place, out=out).code == 0


IMAGES = (
  'sana',
  'a/b',
  'sana:v1.2_3-4',
  'localhost:5000/sana',
  'host/a__b/c.d/e--f:g',
  'us-docker.pkg.dev/mine/sana_jax:1',
  'sana:1@sha256:' + '0' * 64,
  'Registry.example.com:443/a@sha256:' + 'a1' * 32,
)


def test_an_image_is_any_reference_of_a_registry(launch):
  for image in IMAGES:
    assert launch('tpu-vm', image=image).code == 0, image


@pytest.mark.parametrize(
  'place, field, texts', REFUSED, ids=['-'.join(row[:2]) for row in REFUSED]
)
def test_what_no_provider_takes_is_refused(place, field, texts, launch):
  for text in texts:
    assert launch(place, **{field: text}).code == 2, ascii(text)
