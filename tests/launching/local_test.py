"""Processes on this machine: started, monitored, logged and restarted."""

import os
import pathlib
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest

from sana_jax import locks
from sana_jax.launching import local, machines
from sana_jax.launching.job import Job
from sana_jax.launching.restarts import Policy

TOY = pathlib.Path(__file__).with_name('toy_process.py')
# Prints its arguments; the second process fails at its first start.
TRAINER = """
import pathlib, sys, time
run = pathlib.Path(next(
  x.partition('=')[2] for x in sys.argv if x.startswith('--workdir=')))
index = sys.argv[-2][-1]
print('process', index, *sys.argv[1:], flush=True)
first = not (run / 'seen').exists()
if index == '1' and {failing}:
  (run / 'seen').touch()
  {progress}
  sys.exit(9)
if {failing}: time.sleep(60)
"""


@pytest.fixture
def job(tmp_path):
  return Job(
    'local',
    'run',
    'a config',
    str(tmp_path / 'run'),
    machines.parse('cpu:2x3'),
    str(tmp_path / 'out'),
    layout='fsdp',
    overrides=('--config.seed=3',),
    policy=Policy(wait_seconds=0),
  )


def trainer(tmp_path, failing='first', progress='pass'):
  path = tmp_path / 'trainer.py'
  path.write_text(TRAINER.format(failing=failing, progress=progress))
  return [sys.executable, str(path)]


def test_all_are_restarted_when_one_dies(job, tmp_path, capsys):
  assert local.launch(job, trainer(tmp_path)) == 0
  logs = [
    (tmp_path / f'run/logs/process-{i}.log').read_text() for i in range(2)
  ]
  ports = []
  for i, log in enumerate(logs):
    lines = log.splitlines()
    assert len(lines) == 2
    for line in lines:
      ports += re.findall(
        rf'^process {i} train --config=a config --workdir=\S+/run '
        rf'--layout=fsdp --cpu-devices=3 --distributed=localhost:(\d+),2,{i} '
        '--config.seed=3$',
        line,
      )
  assert len(ports) == 4 and ports[:2] == ports[2:]
  # Only the output of the first one is shown.
  shown = capsys.readouterr().err
  assert shown.count('[0] process 0 train') == 2 and 'process 1' not in shown
  assert not (tmp_path / 'run/attempts.json').exists()


def test_attempts_are_one_run_and_a_second_launch_is_refused(job, tmp_path):
  path, record = tmp_path / 'trainer.py', tmp_path / 'record'
  path.write_text(f"""
import os, pathlib, sys
record = pathlib.Path({str(record)!r})
with record.open('a') as file:
  print(os.environ['SANA_JAX_RUN'], os.environ['SANA_JAX_ATTEMPT'], file=file)
sys.exit(9 if os.environ['SANA_JAX_ATTEMPT'].endswith('0') else 0)
""")
  command = [sys.executable, str(path)]
  assert local.launch(job, command) == 0
  runs, attempts = zip(*map(str.split, record.read_text().splitlines()))
  assert len(set(runs)) == 1 and {'0.0', '0.1'} == set(attempts)
  refused = []

  def second():
    try:
      local.launch(job, command)
    except locks.InUse as error:
      refused.append(error)

  with locks.hold(locks.within(tmp_path / 'run/logs'), 'x', '--workdir'):
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
  assert len(refused) == 1
  assert len(record.read_text().splitlines()) == len(attempts)


@pytest.mark.long
def test_the_exit_code_is_that_of_the_failure(job, tmp_path, caplog):
  assert local.launch(job, trainer(tmp_path, failing='True')) == 9
  log = (tmp_path / 'run/logs/process-1.log').read_text()
  assert log.count('process 1') == 3  # A start and two restarts.
  assert 'made no progress' in caplog.text
  # A new launch is a new start.
  assert local.launch(job, trainer(tmp_path, failing='first')) == 0


@pytest.mark.long
def test_restarts_continue_while_they_make_progress(job, tmp_path):
  save = (
    'n = len(list(run.glob("checkpoints/*"))); '
    '(run / f"checkpoints/{n + 1}").mkdir(parents=True)'
  )
  few = 'len(list(run.glob("checkpoints/*"))) < 5'
  assert local.launch(job, trainer(tmp_path, few, save)) == 0


def test_appended_lines_of_a_log_are_shown(tmp_path, capsys):
  log = tmp_path / 'log'
  log.write_bytes(b'of an earlier launch\n')
  tail = local.Tail(log, '[0] ')
  tail()
  with log.open('ab') as file:
    for part, shown in (
      (b'one\ntw', '[0] one\n'),
      (b'', ''),
      (b'o\xff\n\n', '[0] two\ufffd\n[0] \n'),
    ):
      file.write(part)
      file.flush()
      tail()
      assert capsys.readouterr().err == shown


def test_lines_of_a_log_are_escaped(tmp_path, capsys):
  log = tmp_path / 'log'
  tail = local.Tail(log, '[0] ')
  log.write_bytes(b'\33[2J\33]0;title\7 red\n 10%\r 20%\r\n' + b'x' * 10**6)
  with log.open('ab') as file:
    file.write(b'\n')
  tail()
  first, bar, long = capsys.readouterr().err.splitlines()
  assert first == r'[0] \x1b[2J\x1b]0;title\x07 red'
  assert bar == '[0]  20%' and len(long) < 3000


def test_a_log_may_be_created_later(tmp_path, capsys):
  tail = local.Tail(tmp_path / 'log', '')
  tail()
  (tmp_path / 'log').write_text('now\n')
  tail()
  assert capsys.readouterr().err == 'now\n'


def train(workdir, kill=False):
  job = Job(
    'local',
    'toy',
    'toy',
    str(workdir),
    machines.parse('cpu:2x2'),
    'out',
    policy=Policy(wait_seconds=0),
  )
  if kill:
    threading.Thread(target=kill_one, args=[workdir], daemon=True).start()
  code = local.launch(job, [sys.executable, '-W', 'error', str(TOY)])
  logs = [(workdir / f'logs/process-{i}.log').read_text() for i in range(2)]
  assert code == 0, logs
  return logs


def kill_one(workdir):
  """Kills a process with SIGKILL, once a checkpoint exists."""
  while not list(workdir.glob('checkpoints/12')):
    time.sleep(0.005)
  (pid,) = re.findall(
    r'process (\d+)', (workdir / 'logs/process-1.log').read_text()
  )
  os.kill(int(pid), signal.SIGKILL)


def weights(workdir):
  with np.load(workdir / 'model/model.npz') as model:
    return dict(model)


@pytest.mark.long
def test_a_run_with_a_killed_process_ends_with_the_same_bits(
  tmp_path, monkeypatch
):
  root = pathlib.Path(local.__file__).parents[2]
  monkeypatch.setenv('PYTHONPATH', str(root))
  train(tmp_path / 'whole')
  logs = train(tmp_path / 'cut', kill=True)
  assert 'toy: from step 0 to 36' in logs[0]
  assert re.search(r'toy: from step [1-9]\d* to 36', logs[0])  # It resumed.
  ours, theirs = (weights(tmp_path / name) for name in ('cut', 'whole'))
  assert ours and ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])
