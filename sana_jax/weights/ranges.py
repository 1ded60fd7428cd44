"""Reads of ranges of a file whose layout was checked.

Files are not memory-mapped, as truncating a mapped file ends the process with
SIGBUS, and reading is as fast. A file that has changed since it was checked
raises an error.
"""

import os
import pathlib
from typing import BinaryIO, NamedTuple

import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.typing import DType


class CheckedFile(NamedTuple):
  """A file, with its size and modification time at the check of its layout."""

  path: pathlib.Path
  size: int
  modified_ns: int

  def read(
    self, position: int, count: int, dtype: DType, swapped: bool = False
  ) -> np.ndarray:
    """Reads `count` numbers at byte `position`.

    Args:
      swapped: whether their byte order is not that of this machine.

    Raises UserError if the file has changed since it was checked.
    """
    dtype = np.dtype(dtype)
    try:
      with files.open_regular(self.path) as file:
        if checked(self.path, file) != self:
          raise UserError(
            f'{self.path} was changed while it was read; start '
            'again when no process writes to it.',
            value=self.path,
          )
        file.seek(position)
        numbers = np.fromfile(file, f'u{dtype.itemsize}', count)
    except OSError as e:
      raise UserError(
        f'{self.path} cannot be read any more ({e.strerror}).', value=self.path
      ) from e
    if len(numbers) != count:
      raise UserError(
        f'{self.path} has become shorter while it was read.', value=self.path
      )
    return (numbers.byteswap() if swapped else numbers).view(dtype)


def checked(path: pathlib.Path, file: BinaryIO) -> CheckedFile:
  """Current state of an open file with this name."""
  status = os.fstat(file.fileno())
  return CheckedFile(path, status.st_size, status.st_mtime_ns)
