"""Upload of a model folder to the Hugging Face hub.

A folder may also hold what must not be published, such as the state of an
optimizer, caches or credentials: only known files are uploaded, and the first
unknown one ends the command. The token is never part of a message.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
from typing import NamedTuple

from sana_jax import files
from sana_jax.errors import TransientError, UserError
from sana_jax.printable import printable
from sana_jax.weights import card, copying, kinds

_TOP = re.compile(
  r'model_index\.json|README\.md|LICEN[CS]E(\.md|\.txt)?|NOTICE(\.txt)?'
  r'|[\w-]+\.(png|jpg|webp)',
  re.ASCII,
)
_IN_PART = re.compile(r'[\w.-]+\.(json|safetensors|model)', re.ASCII)
_NATIVE = 'orbax'  # All of its files are data.
_PICKLES = '.pkl', '.pt', '.pth', '.ckpt', '.bin'
_PARTS = (*kinds.PARTS, 'tokenizer', 'scheduler')
_LISTED = 5  # Of unknown files in a message.
_REPO = re.compile(
  r'(?=.{1,96}$)[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*', re.ASCII
)
_REVISION = re.compile(r'[A-Za-z0-9_][\w./-]{0,99}', re.ASCII)
ID = 'OWNER/NAME of letters, digits, dots, - and _'


class File(NamedTuple):
  """A file to upload: its path in the model folder, and its size in bytes."""

  path: str
  size: int


def check_id(value: str) -> None:
  """Raises UserError for an invalid id of a model on the hub."""
  wrong = '--', '..', './', '/-'
  if not _REPO.fullmatch(value) or any(x in value for x in wrong):
    valid = False
  else:
    valid = not value.endswith(('.', '-', '.git'))
  if not valid:
    raise UserError(
      f'--to is {printable(repr(value), 120)}; it must be {ID}.',
      key='--to',
      value=value,
      allowed=ID,
    )


def check_revision(value: str | None) -> None:
  """Raises UserError for an invalid name of a branch."""
  if value is not None and (not _REVISION.fullmatch(value) or '..' in value):
    allowed = 'the name of a branch, with letters, digits, -, _, . and /'
    raise UserError(
      f'--revision is {printable(repr(value), 120)}; it must be {allowed}.',
      key='--revision',
      value=value,
      allowed=allowed,
    )


def files_of(folder: pathlib.Path) -> list[File]:
  """The files of a model folder, in order.

  Raises UserError for files that belong to no model, and for links that leave
  the folder.
  """
  found, unknown = [], []
  for path in sorted(_walk(folder)):
    name = path.relative_to(folder).as_posix()
    if not _belongs(name):
      unknown.append(name)
      continue
    copying.check_inside(folder, path)
    if not path.is_file():
      raise UserError(
        f'{printable(path, 300)} is not a regular file; remove it.',
        key='--model',
        value=str(path),
      )
    found.append(File(name, path.stat().st_size))
  if unknown:
    more = len(unknown) - _LISTED
    raise UserError(
      f'--model={folder} holds what belongs to no model: '
      f'{", ".join(printable(name, 100) for name in unknown[:_LISTED])}'
      + (f' and {more:,} more' if more > 0 else '')
      + '; move them away.',
      key='--model',
      value=unknown[0],
    )
  return found


def upload(
  folder: pathlib.Path,
  files_: list[File],
  hub_id: str,
  *,
  private: bool = False,
  revision: str | None = None,
  message: str | None = None,
) -> str:
  """Uploads the files in one commit; returns its address.

  Files that the hub has are not sent again, so that a stopped upload is
  continued by the next one. The card names the model's id.

  Raises UserError without a token or permission, and TransientError if the hub
  does not answer.
  """
  import huggingface_hub
  from huggingface_hub import constants

  if constants.HF_HUB_OFFLINE:
    raise UserError(
      'HF_HUB_OFFLINE is set; unset it to upload.', key='HF_HUB_OFFLINE'
    )
  with _reported(hub_id, ''):
    token = huggingface_hub.get_token()
  if not token:
    raise UserError(
      'There is no token for the hub; set HF_TOKEN, or run hf auth login.',
      key='HF_TOKEN',
    )
  api = huggingface_hub.HfApi(constants.ENDPOINT, token, 'sana_jax')
  with _reported(hub_id, token):
    api.create_repo(hub_id, private=private or None, exist_ok=True)
    if private and not api.model_info(hub_id).private:
      raise UserError(
        f'{hub_id} exists and is public; leave --private out, or choose '
        'another --to.',
        key='--private',
        value=hub_id,
      )
    if revision not in (None, 'main'):
      api.create_branch(hub_id, branch=revision, exist_ok=True)
    commit = api.create_commit(
      hub_id,
      [_addition(folder, file, hub_id) for file in files_],
      commit_message=message or 'Upload a model of sana_jax',
      revision=revision,
    )
  return commit.commit_url


def _walk(folder) -> Iterator[pathlib.Path]:
  for root, below, names in os.walk(folder):
    inner = pathlib.Path(root)
    # Folders are not followed through links, and empty ones are no files.
    yield from (inner / name for name in below if (inner / name).is_symlink())
    yield from (inner / name for name in names)


def _belongs(name):
  part, slash, inner = name.partition('/')
  if not slash:
    return bool(_TOP.fullmatch(name))
  if part not in _PARTS or any(x.startswith('.') for x in inner.split('/')):
    return False
  if inner.startswith(f'{_NATIVE}/'):
    return part in kinds.PARTS and not name.endswith(_PICKLES)
  return bool(_IN_PART.fullmatch(inner))


def _addition(folder, file, hub_id):
  from huggingface_hub import CommitOperationAdd

  path = folder / file.path
  if file.path != card.NAME:
    return CommitOperationAdd(file.path, str(path))
  content = files.read_bytes(path, card.MOST_BYTES)
  if card.WRITTEN.encode() in content:
    content = content.replace(card.PLACE.encode(), hub_id.encode())
  return CommitOperationAdd(file.path, content)


@contextlib.contextmanager
def _reported(hub_id, token):
  """Errors of the hub's client as one-line ones, without the token."""
  try:
    yield
  except UserError:
    raise
  except Exception as e:  # The client's errors have many types.
    chain = [*_chain(e)]
    reason = (str(chain[-1]).strip().splitlines() or [''])[0]
    if token:
      reason = reason.replace(token, '***')
    reason = printable(f'{type(chain[-1]).__name__}: {reason}', 300)
    raise _error(hub_id, reason, chain) from None


def _error(hub_id, reason, chain):
  """The error of a failed request, by its status if the hub answered."""
  responses = [x for e in chain if (x := getattr(e, 'response', None))]
  status = responses[0].status_code if responses else 0
  if status in (401, 403):
    return UserError(
      f'The hub refuses to write {hub_id} ({status}); check that the token is '
      'valid, may write, and belongs to the owner.',
      key='HF_TOKEN',
      value=status,
    )
  if status in (408, 429) or status >= 500 or not status and _is_network(chain):
    return TransientError(
      f'The hub cannot be reached ({reason}); check the network and run the '
      'same command again.',
      key='--to',
      value=hub_id,
    )
  return UserError(
    f'{hub_id} cannot be written ({reason}).', key='--to', value=hub_id
  )


def _chain(error):
  while error is not None:
    yield error
    error = error.__cause__


def _is_network(chain):
  """Whether a connection failed, and not a file of this machine."""
  return any(
    type(e).__module__.startswith('httpx')
    or isinstance(e, OSError)
    and e.filename is None
    for e in chain
  )
