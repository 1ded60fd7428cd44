"""Two runs on one folder: the second one ends and names the first."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from etils import epath
import pytest

import sana_jax
from sana_jax import locks
from sana_jax.errors import UserError
from sana_jax.launch import cli
from sana_jax.locks.holder import Holder
from sana_jax.training import checkpoint_files, workdir

ROOT = pathlib.Path(sana_jax.__file__).parents[1]
TOY = ROOT / 'tests/training/toy.py'
TINY = ROOT / 'tests/golden/tiny_sana'


@contextlib.contextmanager
def running(*command, **env):
  """A process of Python's, killed at the end."""
  with subprocess.Popen(
    [sys.executable, '-W', 'error', *map(str, command)],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **env},
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      yield process
    finally:
      process.kill()


def training(workdir, **settings):
  return running(
    TOY,
    workdir,
    *(f'{key}={json.dumps(value)}' for key, value in settings.items()),
  )


def wait_for(found, process):
  """Until it finds something."""
  deadline = time.monotonic() + 300
  while not found():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.01)


def steps_of(workdir):
  return [
    json.loads(line)['step']
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]


@contextlib.contextmanager
def held(place):
  """Holds a lock in another thread, which is not let in twice either."""
  ready, done = threading.Event(), threading.Event()

  def run():
    with locks.hold(place, 'waiting', '--out'):
      ready.set()
      done.wait(300)

  thread = threading.Thread(target=run)
  thread.start()
  try:
    assert ready.wait(60)
    yield
  finally:
    done.set()
    thread.join()


def refused(capsys, *argv):
  """What a command says that finds its folder in use."""
  assert cli.main(list(map(str, argv))) == 75
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith('sana-jax: error: ')
  return said


@pytest.mark.parametrize(
  'claim, argv',
  [
    (
      locks.within,
      ['sample', '--model', TINY, '--prompt', 'a cat', '--steps', '1', '--out'],
    ),
    (
      locks.within,
      ['data', 'shapes', '--size', '16', '--examples', '2', '--out'],
    ),
    (locks.beside, ['convert', '--from', TINY, '--format', 'orbax', '--to']),
  ],
  ids=['sample', 'data shapes', 'convert'],
)
def test_commands_leave_a_folder_in_use_alone(claim, argv, tmp_path, capsys):
  out = tmp_path / 'out'
  with held(claim(out)):
    before = sorted(tmp_path.rglob('*'))
    said = refused(capsys, *argv, out)
    assert f'process {os.getpid()} on ' in said and argv[-1] in said
    assert sorted(tmp_path.rglob('*')) == before


def test_two_exports_of_a_model(tmp_path):
  with (
    held(locks.beside(tmp_path / 'model')),
    pytest.raises(locks.InUse),
    workdir.new_folder(epath.Path(tmp_path / 'model'), '--to'),
  ):
    pass


def hostile_claim(rng, path):
  """Puts something in the place of a claim."""
  whole = {**dataclasses.asdict(Holder.here('x')), 'place': '', 'kernel': 'y'}
  kind = rng.randrange(8)
  if kind == 0:
    path.write_bytes(rng.randbytes(rng.randrange(300)))
  elif kind == 1:
    path.write_text('[' * rng.choice([10, 4000, 10**5]))
  elif kind == 2:
    os.mkfifo(path)
  elif kind == 3:
    path.symlink_to(rng.choice(['/dev/zero', 'nowhere', '/etc/hosts', path]))
  elif kind == 4:
    text = json.dumps(whole).encode()
    path.write_bytes(text[: rng.randrange(len(text))])
  else:
    for _ in range(rng.randrange(1, 4)):
      whole[rng.choice(list(whole))] = rng.choice(
        [
          None,
          [],
          {},
          '',
          'x' * 300,
          -1,
          10**30,
          1e999,
          '../../x',
          '\x1b[2J',
          [1, 'x'],
          True,
        ]
      )
    path.write_text(json.dumps(whole))


@pytest.mark.long
def test_what_lies_in_place_of_a_claim_ends_by_itself(hostile, tmp_path):
  for number, rng in enumerate(hostile.cases(15, 150)):
    folder = tmp_path / str(number)
    folder.mkdir()
    (folder / 'keep').write_text('x')
    hostile_claim(rng, folder / '.lock')
    with locks.hold(
      locks.within(folder),
      'x',
      '--out',
      terms=locks.Terms(lease=0.05, renew=60.0, poll=0.01),
    ) as lock:
      lock.check()
    assert [p.name for p in folder.iterdir()] == ['keep']


def test_a_folder_in_place_of_a_claim_is_told(tmp_path):
  (tmp_path / '.lock').mkdir()
  with (
    pytest.raises(UserError, match='failed .*folder') as error,
    locks.hold(locks.within(tmp_path), 'x', '--out'),
  ):
    pass
  assert error.value.exit_code == 2


@pytest.mark.long
def test_two_trainers_of_a_workdir(tmp_path, toy):
  checkpoints = epath.Path(tmp_path / 'checkpoints')
  settings = dict(num_steps=10**6, log_every_steps=1, mesh={'data': -1})
  with training(tmp_path, **settings) as first:
    wait_for(lambda: checkpoint_files.steps(checkpoints), first)
    first.send_signal(signal.SIGSTOP)  # It is there all the same.
    with pytest.raises(UserError) as refused:
      toy.run(tmp_path, **{**settings, 'num_steps': 20})
    assert refused.value.exit_code == 75
    assert f'process {first.pid} on ' in str(refused.value)
    assert ' training since 2' in str(refused.value)
    assert first.poll() is None
    first.kill()
  last = max(checkpoint_files.steps(checkpoints))
  toy.run(tmp_path, **{**settings, 'num_steps': last + 5})
  assert steps_of(tmp_path) == list(range(1, last + 6))
  assert not list(tmp_path.glob('.lock*'))


@pytest.mark.slow
def test_two_samplers_of_a_folder(tmp_path, capsys):
  prompts, out = tmp_path / 'prompts.txt', tmp_path / 'out'
  prompts.write_text('\n'.join(f'a red circle {i}' for i in range(60)))
  argv = [
    'sample',
    '--model',
    TINY,
    '--prompts',
    prompts,
    '--steps',
    '2',
    '--batch-size',
    '4',
    '--out',
    out,
  ]
  with running('-m', 'sana_jax.launch.cli', *argv) as first:
    wait_for(lambda: list(out.glob('0*.png')), first)
    first.send_signal(signal.SIGSTOP)
    assert f'process {first.pid} on ' in refused(capsys, *argv)
  assert cli.main(list(map(str, argv))) == 0
  assert len((out / 'results.jsonl').read_text().splitlines()) == 60
  assert not list(out.glob('.lock*'))


@pytest.mark.slow
def test_two_builders_of_a_cache(tmp_path, capsys):
  out = tmp_path / 'cache'
  argv = [
    'data',
    'cache',
    '--config',
    'shapes',
    '--out',
    out,
    f'--config.data.path={tmp_path / "data"}',
    '--config.data.size_px=32',
    '--config.data.examples=64',
    '--config.model.sample_size=8',
    f'--config.autoencoder={TINY}',
    f'--config.text_encoder={TINY}',
    '--shard-records',
    '8',
  ]
  with running('-m', 'sana_jax.launch.cli', *argv) as first:
    wait_for(lambda: list(out.glob('0*.safetensors')), first)
    first.send_signal(signal.SIGSTOP)
    assert f'process {first.pid} on ' in refused(capsys, *argv)
  assert cli.main(list(map(str, argv))) == 0
  assert len(list(out.glob('0*.safetensors'))) == 8
  assert not list(out.glob('.lock*'))


@pytest.mark.slow
def test_both_processes_of_a_second_run_end_alike(tmp_path):
  with held(locks.within(tmp_path)), socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
    s.close()
    with contextlib.ExitStack() as stack:
      both = [
        stack.enter_context(
          training(
            tmp_path, num_steps=4, mesh={'data': -1}, process=[address, 2, i]
          )
        )
        for i in range(2)
      ]
      said = [p.communicate(timeout=300)[1] for p in both]
  lines = [
    [x for x in text.splitlines() if 'is in use by' in x] for text in said
  ]
  assert lines[0] and lines[0] == lines[1]
  assert f'process {os.getpid()} on ' in lines[0][-1]
  assert [p.name for p in tmp_path.iterdir()] == []
