"""Ranges of a file whose layout was checked.

They are read and not mapped: a mapped file that another process cuts ends this
process with SIGBUS, and reading is as fast. A file that was replaced or written
to since it was checked is an error.
"""

import os
import pathlib
from typing import BinaryIO, NamedTuple

import numpy as np

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.typing import DType


class CheckedFile(NamedTuple):
  """A file, and how it was when its layout was checked."""

  path: pathlib.Path
  size: int
  modified_ns: int

  def read(
    self, position: int, count: int, dtype: DType, swapped: bool = False
  ) -> np.ndarray:
    """`count` numbers from `position` bytes on.

    Args:
      swapped: they are in the byte order that this machine does not have.

    Raises UserError where the file is no longer the one that was checked.
    """
    dtype = np.dtype(dtype)
    try:
      with files.open_regular(self.path) as file:
        if checked(self.path, file) != self:
          raise UserError(
            f'{self.path} has changed while it was read; start '
            'again when nothing writes to it.'
          )
        file.seek(position)
        numbers = np.fromfile(file, f'u{dtype.itemsize}', count)
    except OSError as e:
      raise UserError(
        f'{self.path} cannot be read any more ({e.strerror}).'
      ) from e
    if len(numbers) != count:
      raise UserError(f'{self.path} has become shorter while it was read.')
    return (numbers.byteswap() if swapped else numbers).view(dtype)


def checked(path: pathlib.Path, file: BinaryIO) -> CheckedFile:
  """The file of this name, which is open, as it is now."""
  status = os.fstat(file.fileno())
  return CheckedFile(path, status.st_size, status.st_mtime_ns)
