"""Paths as users write them."""

import os

from sana_jax.errors import UserError

BUCKETS = ('gs://', 's3://', 'az://', 'hf://')


def expanded(path: str | os.PathLike) -> str:
  """The path with `~` and `~name` replaced by a home folder.

  Raises:
    UserError: there is no such user, or no home folder. (Python's own functions
      raise RuntimeError, or make a folder that is called `~name`.)
  """
  path = os.fspath(path)
  found = os.path.expanduser(path)
  if path.startswith('~') and found == path:
    name = path.partition('/')[0]
    raise UserError(
      f'{path!r} cannot be used: '
      + (
        'this user has no home folder; set HOME.'
        if name == '~'
        else f'there is no user {name[1:]!r}; write ./{name} for a file of '
        'that name.'
      )
    )
  return found


def place(path: str | os.PathLike) -> str:
  """`expanded`, of a folder that may lie in a bucket.

  Raises:
    UserError: it is a URL of another kind.
  """
  path = os.fspath(path)
  if '://' not in path:
    return expanded(path)
  if not path.startswith(BUCKETS):
    raise UserError(
      f'{path} is in no place where a folder can be; give a local folder, or '
      f'one that begins with {" or ".join(BUCKETS[:2])}.'
    )
  return path
