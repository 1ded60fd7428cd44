"""Resident host memory of this process: peak, and page fault rate."""

import contextlib
import ctypes
import mmap
import pathlib
import resource
import sys
import time

_STATUS = pathlib.Path('/proc/self/status')


def forget_peak() -> None:
  """Resets the process's peak memory (Linux; a no-op elsewhere)."""
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def peak_bytes() -> int:
  """Peak resident bytes, since `forget_peak` on Linux."""
  with contextlib.suppress(OSError):
    return 1024 * int(_STATUS.read_text().partition('VmHWM:')[2].split()[0])
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trim() -> None:
  """Returns freed memory to the system (glibc; a no-op elsewhere)."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)


def page_rate(size: int = 2**28) -> float:
  """Bytes per second of new memory, one write to each page."""
  found = []
  for _ in range(5):
    start = time.perf_counter()
    with mmap.mmap(-1, size) as memory:
      memory[:: mmap.PAGESIZE] = bytes(len(range(0, size, mmap.PAGESIZE)))
    found.append(time.perf_counter() - start)
  return size / min(found)
