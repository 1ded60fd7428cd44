"""Locks: one holder at a time, despite failing holders, hosts and clocks."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from sana_jax import locks
from sana_jax.errors import UserError
from sana_jax.locks import holder, process_group
from sana_jax.locks.acquiring import acquire
from sana_jax.locks.holder import Holder
from sana_jax.locks.stores import store_of

pytestmark = pytest.mark.fast

QUICK = locks.Terms(lease=0.4, renew=0.05, poll=0.02)
HOURS = locks.Terms(lease=3600.0, renew=0.05, poll=0.02)


@pytest.fixture(params=['disk', 'memory'])
def place(request, tmp_path):
  return locks.within(
    tmp_path / 'out' if request.param == 'disk' else f'memory://{tmp_path.name}'
  )


def hold(place, terms=HOURS, doing='testing'):
  return locks.hold(place, doing, '--out', terms=terms)


def claim(place, **changes):
  """Creates a claim of another process; returns its holder and store."""
  store = store_of(place)
  theirs = dataclasses.replace(Holder.here('sampling'), **changes)

  def content(identity):
    return json.dumps(
      dataclasses.asdict(dataclasses.replace(theirs, place=identity))
    ).encode()

  assert store.create('', content)
  store.renew(f'.{theirs.token}')
  return theirs, store


def elsewhere(place, **changes):
  return claim(
    place, **{'kernel': 'another', 'host': 'far', 'process': 7, **changes}
  )


def in_thread(function):
  """Runs `function` in another thread; returns what it raises, or None."""
  raised = []

  def run():
    try:
      function()
    except Exception as error:  # noqa: BLE001  It is returned.
      raised.append(error)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join(30)
  assert not thread.is_alive()
  return raised[0] if raised else None


def take(place, terms=HOURS):
  with hold(place, terms):
    pass


def test_the_second_holder_is_refused_with_the_name_of_the_first(place):
  with hold(place):
    error = in_thread(lambda: take(place))
    assert isinstance(error, locks.InUse) and error.exit_code == 75
    assert f'process {os.getpid()} on ' in str(error)
    assert 'testing since 2' in str(error) and '--out' in str(error)
  assert store_of(place).read() is None
  assert in_thread(lambda: take(place)) is None


def test_a_thread_that_holds_it_may_hold_it_again(place):
  with hold(place) as outer:
    with hold(place) as inner:
      assert inner is outer
    outer.check()
  with pytest.raises(KeyError), hold(place):
    raise KeyError
  take(place)


def test_releasing_removes_all_files_but_no_folders_in_use(tmp_path):
  with hold(locks.within(tmp_path / 'a/b')):
    assert len(list((tmp_path / 'a/b').iterdir())) == 2
  assert not (tmp_path / 'a').exists()
  with hold(locks.beside(tmp_path / 'c/model')):
    (tmp_path / 'c/model').mkdir()
  assert [p.name for p in (tmp_path / 'c').iterdir()] == ['model']


def test_a_process_that_is_gone_holds_no_lock(place):
  # A zombie, and process ids that are reused or do not exist.
  child = subprocess.Popen(['true'])
  stat = pathlib.Path(f'/proc/{child.pid}/stat')
  while stat.read_text().rpartition(')')[2].split()[0] != 'Z':
    time.sleep(0.001)
  for gone in dict(process=child.pid), dict(started='1'), dict(process=2**22):
    claim(place, **gone)
    take(place)
  child.wait()


def test_a_local_process_holds_its_lock_with_an_old_heartbeat(tmp_path):
  place = locks.within(tmp_path)
  theirs, _ = claim(place)
  os.utime(f'{place}.{theirs.token}', (0, 0))
  with pytest.raises(locks.InUse):
    take(place)


def test_a_copied_claim_is_not_valid(tmp_path):
  with hold(locks.within(tmp_path / 'a'), QUICK):
    (tmp_path / 'b').mkdir()
    data = (tmp_path / 'a/.lock').read_bytes()
    (tmp_path / 'b/.lock').write_bytes(data)
    take(locks.within(tmp_path / 'b'), QUICK)


def test_a_holder_on_another_machine_that_renews_is_alive(place):
  theirs, store = elsewhere(place)
  done = threading.Event()

  def beat():
    while not done.wait(0.05):
      store.renew(f'.{theirs.token}')

  thread = threading.Thread(target=beat)
  thread.start()
  with pytest.raises(locks.InUse, match='process 7 on far, sampling since 2'):
    take(place)
  done.set()
  thread.join()


def test_a_holder_on_another_machine_expires_after_the_lease(place):
  elsewhere(place)
  start = time.monotonic()
  take(place, QUICK)
  assert QUICK.lease - 0.1 < time.monotonic() - start < 20


def test_an_old_heartbeat_expires_at_once_whatever_the_clocks_of_hosts(
  tmp_path, monkeypatch
):
  place = locks.within(tmp_path)
  theirs, _ = elsewhere(place, since=4e9)
  now = os.stat(place).st_mtime
  monkeypatch.setattr(time, 'time', lambda: 0.0)
  os.utime(f'{place}.{theirs.token}', (now, now - 121))
  start = time.monotonic()
  take(place, locks.TERMS)
  assert time.monotonic() - start < 1


@pytest.mark.long
def test_a_later_attempt_of_a_run_takes_over_at_once(place, monkeypatch):
  monkeypatch.setenv(holder.RUN, 'job 1')
  monkeypatch.setenv(holder.ATTEMPT, '0.2')
  elsewhere(place, run='job 1', attempt=(0, 1))
  take(place)
  for run, attempt in ('job 1', (0, 2)), ('job 2', (0, 1)), ('', (0, 1)):
    elsewhere(place, run=run, attempt=attempt)
    start = time.monotonic()
    take(place, QUICK)  # Not before the lease has ended.
    assert time.monotonic() - start > QUICK.lease - 0.1


def test_attempts_of_a_scheduler_are_one_run(monkeypatch):
  for name in holder.RUN, holder.ATTEMPT, 'SLURM_RESTART_COUNT', 'JOBSET':
    monkeypatch.delenv(name, raising=False)
  own = [holder.attempt_env(n) for n in (0, 1)]
  assert own[0][holder.RUN] == own[1][holder.RUN]
  assert [x[holder.ATTEMPT] for x in own] == ['0.0', '0.1']
  monkeypatch.setenv('SLURM_JOB_ID', '12')
  monkeypatch.setenv('SLURM_RESTART_COUNT', '3')
  assert holder.attempt_env(1)[holder.RUN].split() == ['slurm', '12']
  assert holder.attempt_env(1)[holder.ATTEMPT] == '3.1'


def lose(place):
  """Replaces the claim by another holder's; returns its holder and store."""
  store_of(place).remove('')
  return elsewhere(place)


def test_a_lost_lock_is_detected_and_left_to_its_new_holder(place):
  lost = threading.Event()
  with hold(place) as lock:
    lock.on_loss = lost.set
    lock.check()
    theirs, store = lose(place)
    with pytest.raises(locks.InUse, match='taken over by process 7 on far'):
      lock.check()
    assert lost.wait(20) and lock.is_lost
  assert holder.parse(store.read()).token == theirs.token
  store.remove('')
  store.remove(f'.{theirs.token}')


def test_a_thread_renews_the_heartbeat(tmp_path):
  with hold(locks.within(tmp_path)):
    (beat,) = tmp_path.glob('.lock.*')
    os.utime(beat, (0, 0))
    deadline = time.monotonic() + 20
    while beat.stat().st_mtime == 0 and time.monotonic() < deadline:
      time.sleep(0.01)
    assert beat.stat().st_mtime > 0


def test_only_one_of_several_threads_takes_an_expired_claim(place):
  for _ in range(5):
    claim(place, started='1')
    start, taken, refused = threading.Barrier(6), [], []

    def run(start=start, taken=taken, refused=refused):
      start.wait()
      try:
        with hold(place):
          taken.append(1)
          deadline = time.monotonic() + 20
          while len(refused) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
      except locks.InUse:
        refused.append(1)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert (len(taken), len(refused)) == (1, 5)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='file/x.*--out') as e:
    take(locks.within(tmp_path / 'file/x'))
  assert e.value.exit_code == 2


class Two(process_group.Processes):
  """Process `index` of two, which are threads."""

  def broadcast(self, status):
    barrier, sent = _CHANNEL
    if self.index == 0:
      sent[:] = [json.dumps(status)]
    barrier.wait(20)
    received = json.loads(sent[0])
    barrier.wait(20)
    return received


_CHANNEL = threading.Barrier(2), []


def both(place, terms, body):
  """Messages of the errors that both processes of a run raise, or None."""

  def run(index):
    processes = Two(index, 2)
    with acquire(store_of(place), 'testing', '--out', processes, terms) as lock:
      body(lock)

  raised = [None, None]

  def second():
    raised[1] = in_thread(lambda: run(1))

  thread = threading.Thread(target=second)
  thread.start()
  raised[0] = in_thread(lambda: run(0))
  thread.join()
  return [str(e) if e else None for e in raised]


def test_processes_of_a_run_are_refused_and_lose_alike(tmp_path):
  place = locks.within(tmp_path)
  with hold(place):
    first, second = both(place, HOURS, None)
    assert first == second and f'process {os.getpid()} on' in first
  assert both(place, HOURS, lambda lock: lock.check_together()) == [None, None]
  elsewhere(place)
  assert both(place, QUICK, lambda lock: lock.check_together()) == [None, None]

  def loses(lock):
    lock.check_together()
    if lock._processes.index == 0:
      lose(place)
    lock.check_together()

  first, second = both(place, HOURS, loses)
  assert first == second and 'taken over by process 7 on far' in first


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_process_and_the_next_can_start(tmp_path, number):
  code = (
    'import sys, threading\nfrom sana_jax import locks\n'
    'with locks.hold(locks.within(sys.argv[1]), "x", "--out"):\n'
    '  print("held", flush=True)\n  threading.Lock().acquire()\n'
    '  lock = threading.Lock()\n  lock.acquire()\n  lock.acquire()'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code, tmp_path], text=True, stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == 'held\n'
    process.send_signal(number)
    assert process.wait(20) == (143 if number == signal.SIGTERM else -9)
  assert bool(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
  take(locks.within(tmp_path))
  assert not list(tmp_path.iterdir())
