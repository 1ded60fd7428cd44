"""Paths given by users: `~` and URLs of buckets."""

import os

from sana_jax.errors import UserError

BUCKETS = ('gs://', 's3://', 'az://', 'hf://')


def expanded(path: str | os.PathLike) -> str:
  """The path with `~` or `~name` replaced by the home folder.

  Raises:
    UserError: the user or the home folder does not exist. (Python's own
      functions raise RuntimeError, or leave `~name` as it is.)
  """
  path = os.fspath(path)
  found = os.path.expanduser(path)
  if path.startswith('~') and found == path:
    name = path.partition('/')[0]
    if name == '~':
      raise UserError(
        f'{path!r} cannot be used: this user has no home folder; set HOME.',
        key='HOME',
        value=path,
      )
    raise UserError(
      f'{path!r} cannot be used: there is no user {name[1:]!r}; write ./{name} '
      'for a file of that name.',
      value=path,
      allowed=[f'./{path}'],
    )
  return found


def expanded_or_url(path: str | os.PathLike) -> str:
  """The expanded path of a local folder, or the URL of a folder in a bucket.

  Raises:
    UserError: it is another kind of URL.
  """
  path = os.fspath(path)
  if '://' not in path:
    return expanded(path)
  if not path.startswith(BUCKETS):
    raise UserError(
      f'{path} is not a supported URL; give a local folder, or '
      f'one that begins with {" or ".join(BUCKETS[:2])}.',
      value=path,
      allowed=BUCKETS,
    )
  return path
