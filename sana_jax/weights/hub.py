"""Location of a model by folder, shipped name, zoo name or hub id."""

from collections.abc import Iterator
import os
import pathlib

from sana_jax.errors import did_you_mean, UserError
from sana_jax.printable import printable
from sana_jax.weights import kinds, native, weight_files, zoo

ASSETS = pathlib.Path(__file__).parents[1] / 'assets'
# Files of a hub repository that loading needs; neither code nor copies of the
# weights in half precision, which casting yields too, and which are downloaded
# only for a part that has no others.
_WANTED = ('*.json', '*.safetensors')
# What marks a folder of ASSETS: that of a pipeline, or of a ControlNet.
_SHIPPED = ('model_index.json', 'controlnet/config.json')
_UNWANTED = ('*.fp16*', '*.bf16*')


def find(name: str | os.PathLike, *, download: bool = True) -> pathlib.Path:
  """Folder of a model, which is downloaded if necessary.

  A name is a folder, a model in this package ('shapes'), a name of the zoo
  ('sana_600m_512') or a hub id. The hub's cache is used first, and is the only
  source if HF_HUB_OFFLINE=1 or without `download`.

  Raises UserError if it is none of these, or cannot be downloaded.
  """
  path = local(name)
  if path.is_dir():
    return path
  if path.is_file():
    raise UserError(
      f'{printable(path, 200)} is a single file, and a model is a folder; make '
      'one with sana-jax convert --from FILE --to FOLDER --format diffusers, '
      'with --base NAME for its other parts.',
      key='--model',
      value=str(path),
      allowed='a folder, a hub id or a name that sana-jax zoo lists',
    )
  shipped = ASSETS / str(name)
  if any((shipped / file).is_file() for file in _SHIPPED):
    return shipped
  text = zoo.hub_id(str(name)) or str(name)
  shown = printable(text, 200)
  if text.count('/') != 1 or text.startswith(('.', '/', '~')):
    shipped = sorted(p.parent.name for p in ASSETS.glob('*/model_index.json'))
    raise UserError(
      f'There is no model folder {shown!r}'
      f'{did_you_mean(text.lower(), [*shipped, *_names()])}; give a folder in '
      'the diffusers '
      f'layout, a hub id such as Efficient-Large-Model/Sana_600M_512px_'
      f'diffusers, a name that sana-jax zoo lists, or a model in this package: '
      f'{shipped}.',
      key='model',
      value=text,
      allowed=shipped,
    )
  return _download(text, shown, download)


def on_this_machine(name: str) -> pathlib.Path | None:
  """Folder of a model that `find` has without the hub, if there is one."""
  for path in (local(name), ASSETS / name):
    if path.is_dir():
      return path
  return None


def is_name(name: str) -> bool:
  """Whether it is a model's name or a hub id, and no folder of this host."""
  if '://' in name or name.startswith(('.', '/', '~')):
    return False
  if (ASSETS / name / 'model_index.json').is_file() or name in _names():
    return True
  return name.count('/') == 1 and not local(name).exists()


def find_pipeline(name: str | os.PathLike) -> pathlib.Path:
  """Folder of a model that can be sampled; refuses others before a download.

  Raises UserError like `find`, and for other kinds of the zoo.
  """
  if not local(name).is_dir():
    zoo.check_sampling(str(name))
  return find(name)


def local(name: str | os.PathLike) -> pathlib.Path:
  """The name as a path, with `~` expanded.

  Raises UserError if it is not a valid path, such as one that is too long.
  """
  try:
    if not os.fspath(name):
      raise ValueError('it is empty')
    path = pathlib.Path(name).expanduser()
    path.exists()  # Raises OSError for names that the system does not allow.
    return path
  except (OSError, RuntimeError, ValueError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise UserError(
      f'{printable(name, 200)!r} is not a name of a model '
      f'({printable(reason, 200)}).',
      key='model',
      value=str(name),
    ) from e


def _download(hub_id, shown, download):
  import huggingface_hub

  try:
    folder = pathlib.Path(
      huggingface_hub.snapshot_download(
        hub_id,
        allow_patterns=_WANTED,
        ignore_patterns=_UNWANTED,
        local_files_only=not download,
      )
    )
    if empty := list(_without_weights(folder)):
      _download_variants(hub_id, folder, empty)
    return folder
  except UserError:
    raise
  except Exception as e:  # The hub's errors have many types.
    if not download:
      raise UserError(
        f'{shown!r} is neither a local folder nor in the cache of the hub; '
        f'download it first, by hf download {shown}.',
        key='model',
        value=hub_id,
      ) from e
    reason = printable((str(e).strip().splitlines() or [''])[0], 300)
    raise UserError(
      f'{shown!r} is not a local folder and cannot be downloaded from the hub '
      f'({type(e).__name__}: {reason}); check the name and the network'
      f'{_offline()}{did_you_mean(hub_id, _hub_ids())}.',
      key='model',
      value=hub_id,
    ) from e


def _without_weights(folder) -> Iterator[str]:
  """Parts of a model folder without weights; '' for the folder itself."""
  parts = ('',) if not (folder / 'model_index.json').exists() else kinds.PARTS
  for part in parts:
    inner = folder / part
    if (inner / 'config.json').exists() and not (
      native.holds(inner)
      or any(inner.glob('*.safetensors'))
      or any(inner.glob('*.bin'))
    ):
      yield part


def _download_variants(hub_id, folder, parts):
  """Downloads the other weights that there are of these parts.

  Raises UserError that lists the files of a part that has none.
  """
  import huggingface_hub
  from huggingface_hub import constants

  if constants.HF_HUB_OFFLINE:
    return  # Loading reports what is missing.
  # The name of a snapshot is its commit.
  every = huggingface_hub.list_repo_files(hub_id, revision=folder.name)
  wanted = []
  for part in parts:
    names = [n for n in every if n.rpartition('/')[0] == part]
    found = weight_files.variant(names)
    if not found:
      weights = [n for n in names if not n.endswith('.json')]
      raise UserError(
        f'{printable(hub_id, 200)} has no weights of '
        f'{part or "its config.json"} in safetensors or .bin; there is '
        f'{printable(", ".join(weights[:5]) or "nothing else", 300)}.',
        key='model',
        value=hub_id,
        allowed=('.safetensors', '.bin'),
      )
    wanted += found
  huggingface_hub.snapshot_download(
    hub_id, revision=folder.name, allow_patterns=wanted
  )


def _names():
  return [entry.name for entry in zoo.ENTRIES if entry.hub_id]


def _hub_ids():
  return [entry.hub_id for entry in zoo.ENTRIES if entry.hub_id]


def _offline():
  from huggingface_hub import constants

  return ', or unset HF_HUB_OFFLINE' if constants.HF_HUB_OFFLINE else ''
