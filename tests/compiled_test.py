"""A damaged compiled program is replaced, and nobody is told."""

import subprocess
import sys

import pytest

from sana_jax.seals import unsealed

_COMPILES = """
import zlib

import jax
from sana_jax import compiled
compiled.keep({folder!r}, at_least_seconds=0)
if {mends} is False:
  jax._src.compilation_cache.get_executable_and_time = (
    jax._src.compilation_cache.get_executable_and_time.__wrapped__)
  jax._src.compilation_cache.decompress_executable = zlib.decompress
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3)))
"""


def compiles(folder, mends=True):
  """Warnings and errors of a process that multiplies matrices."""
  words = _COMPILES.format(folder=str(folder), mends=mends)
  return subprocess.run(
    [sys.executable, '-c', words],
    capture_output=True,
    text=True,
    check=True,
  ).stderr


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  """A program's file and what is in it."""
  folder = tmp_path_factory.mktemp('compiled')
  assert not compiles(folder)
  (path,) = folder.glob('jit__lambda*-cache')
  return path, path.read_bytes()


@pytest.fixture
def program(kept):
  path, whole = kept
  path.write_bytes(whole)
  yield path
  if path.is_dir():
    path.rmdir()


@pytest.mark.parametrize('bytes_left', [0, 100])
def test_half_a_program_is_compiled_anew(program, bytes_left):
  whole = program.read_bytes()
  program.write_bytes(whole[:bytes_left])
  assert not compiles(program.parent)
  assert len(program.read_bytes()) > 0.9 * len(whole)  # It holds a time, too.


def test_a_flipped_bit_is_compiled_anew_and_jax_alone_reads_the_program(
  program,
):
  data = bytearray(whole := program.read_bytes())
  data[len(data) // 2] ^= 1
  program.write_bytes(data)
  assert not compiles(program.parent)
  assert unsealed(program.read_bytes())
  program.write_bytes(whole)
  assert not compiles(program.parent, mends=False)
  assert program.read_bytes() == whole


def test_jax_alone_warns_of_it_and_keeps_it(program):
  """Else our own part is to go."""
  program.write_bytes(half := program.read_bytes()[:100])
  assert 'Error reading persistent' in compiles(program.parent, mends=False)
  assert program.read_bytes() == half


def test_a_place_that_cannot_be_read_is_told_and_left(program):
  program.unlink()
  program.mkdir()
  assert 'IsADirectoryError' in compiles(program.parent)
  assert program.is_dir()
