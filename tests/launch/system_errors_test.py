"""Errors of the operating system as one-line messages."""

import errno
import os
import pathlib

import numpy as np
import pytest

from sana_jax.launch import cli, system_errors

pytestmark = pytest.mark.fast


def raised(number, name=None):
  return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
  'number',
  [
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EINVAL,
    errno.ENXIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EEXIST,
  ],
)
def test_an_error_of_a_users_path_names_it(number, monkeypatch, capsys):
  def run(argv):
    raise raised(number, 'out/x')

  monkeypatch.setattr(cli, 'run', run)
  assert cli.main([]) == 2
  printed = capsys.readouterr().err
  assert printed.startswith('sana-jax: error: ') and 'out/x' in printed
  assert os.strerror(number) in printed


@pytest.mark.parametrize(
  'error',
  [
    raised(errno.ENOENT),
    raised(errno.EBADF, 'out/x'),
    raised(errno.EINVAL),
    raised(errno.ENOENT, str(pathlib.Path(cli.__file__).with_name('gone.txt'))),
    OSError('no number'),
    TimeoutError('slow'),
    ConnectionResetError(104, 'x'),
  ],
)
def test_what_may_be_a_mistake_of_the_program_is_raised(error, monkeypatch):
  def run(argv):
    raise error

  monkeypatch.setattr(cli, 'run', run)
  with pytest.raises(OSError) as found:
    cli.main([])
  assert found.value is error


def test_memory_that_runs_out_is_a_one_line_error():
  with pytest.raises(MemoryError) as error:
    np.empty(2**60, np.uint8)
  assert 'memory' in system_errors.message(error.value)
