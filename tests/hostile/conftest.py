"""Hostile input: few cases by default, all of them with `-m slow`.

A test takes the fixture `hostile` and asks it for seeds:

    def test_a_damaged_file_is_refused(hostile):
      for rng in hostile.cases(15, 150):
        ...

The default run draws the first number of cases and a test of the same function
marked slow the second. Each case has its own seed, printed if it fails;
SANA_JAX_HOSTILE_SEED=N repeats a whole run, SANA_JAX_HOSTILE_CASE=N one case.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import random
import signal
import socket
import sys

import pytest

# Tests import the modules beside them by name: they are no package.
sys.path.append(str(pathlib.Path(__file__).parent))

BOUND_SECONDS = 10  # Of one hostile input: longer is a hang.


class Hostile:
  """Seeded cases of a test, each within a bound of time."""

  def __init__(self, seed: int, every: bool):
    self.seed, self.every = seed, every

  def cases(self, few: int, all_: int) -> Iterator[random.Random]:
    """Generators of random numbers, one a case."""
    one = os.environ.get('SANA_JAX_HOSTILE_CASE')
    for case in [int(one)] if one else range(all_ if self.every else few):
      print(f'hostile: seed {self.seed}, case {case}')
      with self.bounded():
        yield random.Random(f'{self.seed}-{case}')

  @contextlib.contextmanager
  def bounded(self, seconds: float = BOUND_SECONDS) -> Iterator[None]:
    """Fails the test where it runs longer, on the main thread."""

    def stop(*_):
      # No Exception, which the code under test may catch.
      pytest.fail(f'more than {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
      yield
    finally:
      signal.setitimer(signal.ITIMER_REAL, 0)
      signal.signal(signal.SIGALRM, before)


@pytest.fixture(
  params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=['few', 'all']
)
def hostile(request) -> Hostile:
  seed = int(
    os.environ.get(
      'SANA_JAX_HOSTILE_SEED', random.SystemRandom().randrange(2**31)
    )
  )
  return Hostile(seed, request.param)


@pytest.fixture
def special():
  """Makes something at a path that is no regular file, in ways that wait."""

  def make(rng: random.Random, path: pathlib.Path) -> None:
    kind = rng.choice(
      [
        'fifo',
        'folder',
        'socket',
        '/dev/zero',
        '/dev/full',
        '/dev/stdin',
        '/dev/random',
        'nothing',
        path.name,
      ]
    )
    if kind == 'fifo':
      os.mkfifo(path)
    elif kind == 'folder':
      path.mkdir()
    elif kind == 'socket':
      here = os.getcwd()
      os.chdir(path.parent)  # The path of a socket is short.
      with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path.name)
      os.chdir(here)
    else:
      path.symlink_to(kind)

  return make


@pytest.fixture
def memory():
  """Its result, and the bytes by which the process grew while it ran."""

  def field(name):
    text = pathlib.Path('/proc/self/status').read_text()
    return int(text.split(f'{name}:')[1].split()[0]) * 1024

  def grown(function, *args) -> tuple:
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # The peak is now.
    before = field('VmRSS')
    result = function(*args)
    return result, field('VmHWM') - before

  return grown
