"""Memory is measured in a separate process.

In a shared one, threads return memory of earlier tests.
"""

import json
import os
import subprocess
import sys

import pytest

from sana_jax.tools.bench import resident

pytestmark = pytest.mark.fast

SIZE = 2**28


def alone(f):
  """Result of a function of this file in another process."""
  done = subprocess.run(
    [sys.executable, __file__, f.__name__],
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  return json.loads(done.stdout)


def peaks_of_two_times():
  held = bytearray(os.urandom(1)) * SIZE
  first = resident.peak_bytes()
  del held
  resident.forget_peak()
  before = resident.peak_bytes()
  held = bytearray(b'x') * SIZE
  return first, before, resident.peak_bytes(), len(held)


def peaks_around_a_trim():
  kept = [bytearray(b'x' * 2**16) for _ in range(4096)]
  last = bytearray(2**16)  # Lies after them, so that malloc keeps their memory.
  del kept
  resident.trim()
  resident.forget_peak()
  low = resident.peak_bytes()
  kept = [bytearray(b'x' * 2**16) for _ in range(4096)]
  return low, resident.peak_bytes(), len(kept) + len(last)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != 'linux', reason='peaks stay, off Linux')
def test_a_peak_counts_from_its_last_reset():
  first, before, after, _ = alone(peaks_of_two_times)
  assert first > SIZE
  assert abs(after - before - SIZE) < SIZE // 16


@pytest.mark.skipif(sys.platform != 'linux', reason='peaks stay, off Linux')
def test_freed_memory_is_returned_to_the_system():
  low, after, _ = alone(peaks_around_a_trim)
  assert after - low > SIZE // 2


def test_new_memory_comes_at_a_rate():
  assert resident.page_rate(2**22) > 0


if __name__ == '__main__':
  print(json.dumps(globals()[sys.argv[1]]()))
