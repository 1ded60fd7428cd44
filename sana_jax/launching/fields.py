"""Grammar of the untrusted texts of a launch.

A launch inserts them in bash scripts, #SBATCH lines, YAML and command lines of
other hosts. Besides quoting, two rules make sure that they remain data: a text
is bounded and printable, so that it stays on its line; a name matches its
provider's pattern, none of which allows characters that a shell interprets, or
a leading `-`, which would make it an option.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import os
import pathlib
import re

from sana_jax.errors import joined, UserError
from sana_jax.printable import printable

MOST_BYTES = 4096  # Limit of a text; Linux has the same for paths.
MOST_BYTES_TOGETHER = 16384  # Limit of all overrides, an argument of ssh.
_MOST_BYTES_OF_FILE_NAME = 255
_SHOWN = 200  # Characters of an invalid text in a message.


@dataclasses.dataclass(frozen=True)
class Grammar:
  """Pattern of a name, and its description."""

  pattern: str
  words: str


_LABEL = r'[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
_HOST = r'[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?'
_PATH = r'[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*'
_OBJECT = r'[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?'  # Of Kubernetes.
_FOLDER = r'(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]{1,255}){1,64}'
_SLURM = r'[A-Za-z0-9_][A-Za-z0-9_.@+-]*'
GRAMMARS = {
  # Kubernetes' label of a host, with room for suffixes.
  'name': Grammar(
    r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?',
    '40 or fewer of a-z, 0-9 and -, begin with a letter and not end with -',
  ),
  # github.com/distribution/reference, without IPv6.
  'image': Grammar(
    rf'({_HOST}(\.{_HOST})*(:[0-9]{{1,5}})?/)?{_PATH}(/{_PATH})*'
    r'(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[a-z0-9+._-]+:[0-9a-f]{32,128})?',
    'an image such as REGISTRY:PORT/PATH:TAG or PATH@sha256:DIGEST',
  ),
  # Compute Engine's API.
  'zone': Grammar(
    r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?', 'a zone such as us-east5-a'
  ),
  'project': Grammar(
    rf'({_LABEL}(\.{_LABEL})*:)?{_LABEL}',
    'the id of a project: a-z, 0-9 and -, or DOMAIN:ID',
  ),
  'cluster': Grammar(
    r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?',
    'the name of a cluster: 40 or fewer of a-z, 0-9 and -',
  ),
  'partition': Grammar(
    rf'{_SLURM}(,{_SLURM})*',
    'one or several names, with commas between, of letters, digits and _.@+-',
  ),
  'account': Grammar(_SLURM, 'a name of letters, digits and _.@+-'),
  'time_limit': Grammar(
    r'([0-9]{1,4}-)?[0-9]{1,6}(:[0-9]{2}){0,2}',
    'a time: minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS, such as 2-12',
  ),
  'mount': Grammar(
    rf'({_OBJECT}:)?{_FOLDER}',
    '/PATH or CLAIM:/PATH of letters, digits and ._-, such as datasets:/data',
  ),
  'hf_token_secret': Grammar(
    rf'{_OBJECT}(:[A-Za-z0-9._-]{{1,253}})?',
    'the name of a secret, or NAME:KEY, such as hf-secret:hf_api_token',
  ),
}
# Other characters would be patterns in globs of a bucket's checkpoints.
_BUCKET = r'(gs|s3)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^][*?#]*)?'


def text_problem(what: str, text: str, key: str = '') -> UserError | None:
  """The error of a text that cannot be in a script; None if it can.

  Args:
    what: name of the text, such as a flag.
    text: the text.
    key: key of the error, if it is not `what`.
  """
  about = {'key': key or what, 'value': text}
  if not text:
    return UserError(f'{what} is empty; give a value or leave it out', **about)
  if (size := len(text.encode(errors='replace'))) > MOST_BYTES:
    return UserError(
      f'{what} has {size} bytes; at most {MOST_BYTES} are allowed',
      allowed=f'at most {MOST_BYTES} bytes',
      **about,
    )
  if not text.isprintable():
    wrong = next(c for c in text if not c.isprintable())
    allowed = 'printable characters and spaces'
    return UserError(
      f'{what}={printable(text, _SHOWN)} contains U+{ord(wrong):04X}; '
      f'{allowed} are allowed',
      allowed=allowed,
      **about,
    )
  return None


def name_problem(key: str, text: str) -> UserError | None:
  """The error of a text that is not a name of this kind; None if it is."""
  if problem := text_problem(flag(key), text):
    return problem
  if re.fullmatch(GRAMMARS[key].pattern, text):
    return None
  return UserError(
    f'{flag(key)}={printable(text, _SHOWN)} must be {GRAMMARS[key].words}',
    key=flag(key),
    value=text,
    allowed=GRAMMARS[key].words,
  )


def path_problem(key: str, text: str) -> UserError | None:
  """The error of a text that is not a path or bucket; None if it is."""
  if problem := text_problem(flag(key), text):
    return problem
  about = {'key': flag(key), 'value': text}
  shown = f'{flag(key)}={printable(text, _SHOWN)}'
  if '://' in text:
    if re.fullmatch(_BUCKET, text):
      return None
    allowed = 'gs://BUCKET/PATH or s3://BUCKET/PATH without any of []*?#'
    return UserError(
      f'{shown} is not a folder of a bucket; give {allowed}',
      allowed=allowed,
      **about,
    )
  if max(map(len, text.encode().split(b'/'))) > _MOST_BYTES_OF_FILE_NAME:
    return UserError(
      f'{shown} has a file name of more than {_MOST_BYTES_OF_FILE_NAME} bytes',
      allowed=f'at most {_MOST_BYTES_OF_FILE_NAME} bytes',
      **about,
    )
  return None


def override_problems(overrides: Sequence[str]) -> Iterator[UserError | None]:
  """The errors of overrides that cannot be in a script; None for others.

  Empty values are checked by the rules of their keys.
  """
  for override in overrides:
    key, _, value = override.partition('=')
    yield text_problem('An argument', key, '--config')
    if value:
      own = key.removeprefix('--config.')
      yield text_problem(printable(key, _SHOWN), value, own)
  size = sum(len(o.encode(errors='replace')) for o in overrides)
  if size > MOST_BYTES_TOGETHER:
    yield UserError(
      f'The --config.key=value arguments have {size} bytes; at most '
      f'{MOST_BYTES_TOGETHER} are allowed',
      key='--config',
      value=size,
      allowed=f'{MOST_BYTES_TOGETHER} bytes',
    )


def check_text(what: str, text: str) -> str:
  """Returns the text; raises UserError if it cannot be in a script."""
  if problem := text_problem(what, text):
    raise joined([problem])
  return text


def local_folder(key: str, text: str) -> pathlib.Path:
  """Absolute path, which does not begin with `-`, with `~` expanded.

  Raises UserError if the home folder or the current folder does not exist, or
  if the path cannot be in a script.
  """
  try:
    path = pathlib.Path(text).expanduser().absolute()
  except (RuntimeError, FileNotFoundError):
    raise UserError(
      f'{flag(key)}={printable(text, _SHOWN)} is relative to a home folder or '
      'a current folder that does not exist; give an absolute path.',
      key=flag(key),
      value=text,
      allowed='absolute paths',
    ) from None
  check_text(flag(key), str(path))
  return path


def current_folder() -> str:
  """Path of the current folder; UserError if it is deleted or invalid."""
  try:
    return check_text('The current folder', os.getcwd())
  except FileNotFoundError:
    raise UserError(
      'The current folder is gone; go to another one.', key='current folder'
    ) from None


def flag(key: str) -> str:
  """Command-line flag of a field of a Job."""
  return f'--{key.replace("_", "-")}'
