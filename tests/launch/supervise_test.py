"""The supervisor that scripts of sana-jax launch run."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from sana_jax.errors import UserError
from sana_jax.launch import supervise as supervise_command

ROOT = pathlib.Path(__file__).parents[2]
SAVES = """
import pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
def save(*_):
  (run / 'checkpoints/3').mkdir(parents=True)
  sys.exit(143)
signal.signal(signal.SIGTERM, save)
(run / 'ready').touch()
while True: time.sleep(.1)
"""


@pytest.fixture
def supervise(tmp_path):
  """Starts the supervisor with these flags, and a command after --."""

  def start(*words, command):
    return subprocess.Popen(
      [
        sys.executable,
        '-m',
        'sana_jax.launch.supervise',
        '--workdir',
        tmp_path,
        '--notes',
        tmp_path / 'notes.json',
        '--wait-seconds=0',
        *words,
        '--',
        *command,
      ],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
    )

  return start


def wait_for(path):
  deadline = time.monotonic() + 60
  while not path.exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.long
def test_a_warning_of_the_scheduler_saves_and_queues_again(supervise, tmp_path):
  process = supervise(
    '--again-with=touch',
    f'--again-with={tmp_path}/queued again',
    command=[sys.executable, '-c', SAVES, tmp_path],
  )
  wait_for(tmp_path / 'ready')
  process.send_signal(signal.SIGUSR1)
  err = process.communicate(timeout=60)[1]
  assert process.returncode == 143, err
  assert (tmp_path / 'checkpoints/3').exists()
  assert (tmp_path / 'queued again').exists()
  assert '"stop_requested": true' in (tmp_path / 'notes.json').read_text()


@pytest.mark.long
def test_a_sigterm_saves_and_queues_nothing(supervise, tmp_path):
  process = supervise(
    '--again-with=touch',
    f'--again-with={tmp_path}/queued again',
    command=[sys.executable, '-c', SAVES, tmp_path],
  )
  wait_for(tmp_path / 'ready')
  process.terminate()
  err = process.communicate(timeout=60)[1]
  assert process.returncode == 143, err
  assert (tmp_path / 'checkpoints/3').exists()
  assert not (tmp_path / 'queued again').exists()


@pytest.mark.long
def test_a_stop_is_noted_before_the_run_has_ended(supervise, tmp_path):
  # A scheduler may kill all of them before they have saved.
  process = supervise(
    '--stop-with=touch',
    f'--stop-with={tmp_path}/stop',
    command=['sh', '-c', f'touch {tmp_path}/ready; exec sleep 60'],
  )
  wait_for(tmp_path / 'ready')
  process.terminate()
  wait_for(tmp_path / 'stop')
  process.kill()
  process.communicate()
  assert (tmp_path / 'notes.json').read_text() == (
    '[{"step": 0, "exit_code": null, "stop_requested": true}]'
  )


@pytest.mark.long
def test_of_several_supervisors_one_decides(supervise, tmp_path):
  process = supervise('--process=0-1', '--once', command=['sh', '-c', 'exit 5'])
  err = process.communicate(timeout=60)[1]
  assert (process.returncode, err) == (5, '')
  assert not (tmp_path / 'notes.json').exists()
  process = supervise('--process=0-0', '--once', command=['sh', '-c', 'exit 5'])
  process.communicate(timeout=60)
  assert process.returncode == 5
  assert '"exit_code": 5' in (tmp_path / 'notes.json').read_text()


@pytest.mark.parametrize(
  'words, command, key, value',
  [
    (['--restarts=x'], ['true'], '--restarts', 'x'),
    (['--process=$(SLICE)'], ['true'], '--process', '$(SLICE)'),
    (['--process=--'], ['true'], '--process', '--'),
    (['--stop-with=nowhere'], ['true'], '--stop-with', 'nowhere'),
    (['--again-with=touch x'], ['true'], '--again-with', 'touch x'),
    ([], [], '--', ''),
    ([], ['nowhere'], 'PATH', 'nowhere'),
  ],
)
def test_a_mistake_raises_a_user_error(words, command, key, value, tmp_path):
  with pytest.raises(UserError) as error:
    supervise_command.main(
      [
        f'--workdir={tmp_path}',
        f'--notes={tmp_path}/notes.json',
        *words,
        '--',
        *command,
      ]
    )
  assert (error.value.key, error.value.value) == (key, value)
  assert all(word.partition('=')[2] in str(error.value) for word in words)
  assert error.value.exit_code == 2


@pytest.mark.long
def test_a_mistake_is_a_one_line_error(supervise):
  process = supervise('--restarts=x', command=['true'])
  err = process.communicate(timeout=60)[1]
  assert process.returncode == 2
  assert err.startswith('sana-jax: error: ') and err.count('\n') == 1
