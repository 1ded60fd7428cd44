"""Corrupt entries of the compilation cache are replaced without a warning."""

import subprocess
import sys

import pytest

from sana_jax.seals import unsealed

_COMPILES = """
import zlib

import jax
from sana_jax import compilation_cache
compilation_cache.enable({folder!r}, at_least_seconds=0)
if {patched} is False:
  jax._src.compilation_cache.get_executable_and_time = (
    jax._src.compilation_cache.get_executable_and_time.__wrapped__)
  jax._src.compilation_cache.decompress_executable = zlib.decompress
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3)))
"""


def warnings_of_compiling(folder, patched=True):
  """Standard error of a process that compiles a matmul.

  Args:
    patched: whether our changes to JAX's cache are in use.
  """
  code = _COMPILES.format(folder=str(folder), patched=patched)
  return subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
  ).stderr


@pytest.fixture(scope='module')
def entry(tmp_path_factory):
  """Path and content of a cache entry."""
  folder = tmp_path_factory.mktemp('compiled')
  assert not warnings_of_compiling(folder)
  (path,) = folder.glob('jit__lambda*-cache')
  return path, path.read_bytes()


@pytest.fixture
def program(entry):
  """Path of an intact cache entry."""
  path, content = entry
  path.write_bytes(content)
  yield path
  if path.is_dir():
    path.rmdir()


@pytest.mark.long
@pytest.mark.parametrize('bytes_left', [0, 100])
def test_a_truncated_entry_is_recompiled(program, bytes_left):
  whole = program.read_bytes()
  program.write_bytes(whole[:bytes_left])
  assert not warnings_of_compiling(program.parent)
  assert len(program.read_bytes()) > 0.9 * len(whole)  # Its time varies.


@pytest.mark.long
def test_a_flipped_bit_causes_recompilation_and_jax_alone_reads_the_entry(
  program,
):
  data = bytearray(whole := program.read_bytes())
  data[len(data) // 2] ^= 1
  program.write_bytes(data)
  assert not warnings_of_compiling(program.parent)
  assert unsealed(program.read_bytes())
  program.write_bytes(whole)
  assert not warnings_of_compiling(program.parent, patched=False)
  assert program.read_bytes() == whole


@pytest.mark.long
def test_jax_alone_warns_of_a_truncated_entry_and_keeps_it(program):
  """Fails once JAX handles this itself; then our patch can be removed."""
  program.write_bytes(half := program.read_bytes()[:100])
  assert 'Error reading persistent' in warnings_of_compiling(
    program.parent, patched=False
  )
  assert program.read_bytes() == half


@pytest.mark.long
def test_an_unreadable_entry_is_reported_and_kept(program):
  program.unlink()
  program.mkdir()
  assert 'IsADirectoryError' in warnings_of_compiling(program.parent)
  assert program.is_dir()
