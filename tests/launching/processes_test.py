"""Processes end together, and can save on a stop request."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from sana_jax.errors import UserError
from sana_jax.launching import processes
from sana_jax.launching.processes import Patience, Process, Requests

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parents[2]
# Prints when it is ready; on SIGTERM it saves and exits, as train does.
TRAINER = """
import signal, sys, time
def save(*_):
  print('saved', flush=True)
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
print('ready', flush=True)
{then}
"""


def python(then, log=None):
  return Process([sys.executable, '-c', TRAINER.format(then=then)], log=log)


@pytest.fixture
def logs(tmp_path):
  return [tmp_path / 'logs' / f'process-{i}.log' for i in range(2)]


def wait_for(path, text, seconds=20):
  deadline = time.monotonic() + seconds
  while not (path.exists() and text in path.read_text()):
    assert time.monotonic() < deadline, path
    time.sleep(0.02)


def test_the_exit_code_is_0_if_all_succeed(logs):
  code = processes.run([python('', log) for log in logs], Requests())
  assert code == 0
  assert [log.read_text() for log in logs] == ['ready\n', 'ready\n']


def test_a_failure_stops_the_others(logs):
  began = time.monotonic()
  died = f'while "ready" not in open({str(logs[0])!r}).read(): time.sleep(.02)'
  code = processes.run(
    [
      python('time.sleep(60)', logs[0]),
      python(f'{died}\nsys.exit(7)', logs[1]),
    ],
    Requests(),
  )
  assert code == 7
  assert logs[0].read_text() == 'ready\nsaved\n'
  assert time.monotonic() - began < 30


def test_a_signal_is_reported_as_by_a_shell(logs):
  kill = 'import os; os.kill(os.getpid(), 9)'
  assert processes.run([python(kill)], Requests()) == 128 + 9


def test_a_process_that_ignores_sigterm_is_killed(logs):
  deaf = 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint("deaf", flush=1)'
  died = f'while "deaf" not in open({str(logs[0])!r}).read(): time.sleep(.02)'
  began = time.monotonic()
  code = processes.run(
    [
      python(f'{deaf}\ntime.sleep(60)', logs[0]),
      python(f'{died}\nsys.exit(7)', logs[1]),
    ],
    Requests(),
    patience=Patience(others=0.3),
  )
  assert code == 7
  assert time.monotonic() - began < 30


def test_a_stop_request_is_passed_on_to_all_which_save(logs):
  requests = Requests()
  threading.Thread(
    target=lambda: (
      [wait_for(log, 'ready') for log in logs],
      requests.stop.append(15),
    )
  ).start()
  code = processes.run(
    [python('time.sleep(60)', log) for log in logs], requests
  )
  assert code == 143
  assert [log.read_text() for log in logs] == ['ready\nsaved\n'] * 2


@pytest.mark.long
def test_after_a_signal_to_one_the_others_have_time_to_save(logs):
  # All agree on a step; the second one takes longer than others=0.1 allows.
  slow = f"""
while 'saved' not in open({str(logs[0])!r}).read(): time.sleep(.02)
time.sleep(.5)
print('saved later', flush=True)
sys.exit(143)"""
  mine = 'import os; time.sleep(.5); os.kill(os.getpid(), 15); time.sleep(9)'
  code = processes.run(
    [python(mine, logs[0]), python(slow, logs[1])],
    Requests(),
    patience=Patience(others=0.1),
  )
  assert code == 143
  assert 'saved later' in logs[1].read_text()


def test_a_custom_stop_command_is_used(logs, tmp_path):
  requests = Requests()
  requests.stop.append(15)
  flag = tmp_path / 'flag'
  waits = f'import os\nwhile not os.path.exists({str(flag)!r}): time.sleep(.02)'
  code = processes.run([python(waits, logs[0])], requests, stop=flag.touch)
  assert code == 0
  assert 'saved' not in logs[0].read_text()


def test_a_log_is_appended_to(logs):
  logs[0].parent.mkdir()
  logs[0].write_text('before\n')
  processes.run([python('', logs[0])], Requests())
  assert logs[0].read_text() == 'before\nready\n'


def test_a_missing_command_is_a_user_error():
  with pytest.raises(UserError) as error:
    processes.run([Process(['nowhere'])], Requests())
  assert (error.value.key, error.value.value) == ('PATH', 'nowhere')


def test_a_command_that_cannot_be_started_is_a_user_error(tmp_path):
  with pytest.raises(UserError) as error:
    processes.run([Process(['true', 'x' * 2**20])], Requests())
  assert error.value.value == 'true'
  (tmp_path / 'file').touch()
  with pytest.raises(UserError) as error:
    processes.run([Process(['true'], log=tmp_path / 'file/log')], Requests())
  assert error.value.key == '--workdir'
  assert error.value.value == tmp_path / 'file/log'


def test_sigterm_is_sent_if_the_stop_command_cannot_start(logs, caplog):
  requests = Requests()
  threading.Thread(
    target=lambda: (wait_for(logs[0], 'ready'), requests.stop.append(15))
  ).start()
  code = processes.run(
    [python('time.sleep(60)', logs[0])],
    requests,
    stop=lambda: subprocess.Popen(['/nowhere']),
  )
  assert code == 143 and logs[0].read_text() == 'ready\nsaved\n'
  assert 'SIGTERM instead' in caplog.text


@pytest.mark.skipif(sys.platform != 'linux', reason='needs a Linux')
def test_processes_end_with_their_supervisor(logs):
  trainer = TRAINER.format(then='time.sleep(60)')
  code = f"""
from sana_jax.launching.processes import *
with Requests() as requests:
  run([Process([{sys.executable!r}, '-c', {trainer!r}],
    log=pathlib.Path({str(logs[0])!r}))], requests)
"""
  parent = subprocess.Popen(
    [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}
  )
  wait_for(logs[0], 'ready')
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  wait_for(logs[0], 'saved')
