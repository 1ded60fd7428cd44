"""What a run is worth at any step: its weights as a model folder.

A task exports its own weights at the end; here that is done from a checkpoint,
with the config alone, while the run goes on: no data are read, no device but
the CPU is used and nothing in the workdir is changed.
"""

from collections.abc import Callable, Mapping
import pathlib

from absl import logging
from etils import epath
from ml_collections import ConfigDict
import numpy as np

from sana_jax.errors import UserError
from sana_jax.models.dc_ae import DCAE
from sana_jax.models.sana import Sana
from sana_jax.text import tokenizer_files
from sana_jax.training import encoders, saved
from sana_jax.training.tasks import common, dc_ae
from sana_jax.typing import Params
from sana_jax.weights import copying
from sana_jax.weights import folder as folders

WEIGHTS = ('ema', 'params')  # The average, and what the steps change.


def folders_of(config: ConfigDict) -> dict[str, pathlib.Path]:
  """The model folders that a 'sana' run needs, by the config's key."""
  found = {key: encoders.find(config, key) for key in encoders.PARTS}
  for key, parts in encoders.PARTS.items():
    for part in parts:
      copying.check(found[key], part)  # At the start: copied at the end.
  tokenizer_files.read(found['text_encoder'] / 'tokenizer')
  return found


def write_sana(
  module: Sana, config: ConfigDict, others: Mapping[str, pathlib.Path],
  params: Params, folder,
) -> None:
  """A whole model folder: the transformer and copies of the other two."""
  folder = pathlib.Path(folder)
  folders.write(folder, 'transformer', module, {'params': params})
  for key, parts in encoders.PARTS.items():
    for part in parts:
      copying.copy(others[key], part, folder)
  settings = config.sampling
  folders.write_index(
    folder, flow_shift=settings.shift,
    sampling={'steps': settings.steps,
              'guidance_scale': settings.guidance_scale})


def writer(config: ConfigDict) -> Callable[[Params, pathlib.Path], None]:
  """Writes a model folder of host arrays, as the task of `config` does."""
  match config.task:
    case 'sana':
      others = folders_of(config)
      module = common.build(Sana, config, **_sizes(others))
      return lambda params, to: write_sana(module, config, others, params, to)
    case 'dc_ae':
      module = common.build(DCAE, config)
      logging.warning(
        'The scaling factor is %s, of config.model: it is measured on data '
        'when the run is done.', module.scaling_factor)
      return lambda params, to: folders.write(
        to, 'vae', module, dc_ae.autoencoder(params))
    case 'text_encoder':
      from sana_jax.training.tasks.text_encoder import TextEncoderTask
      return TextEncoderTask(config).export  # Learns the tokenizer once more.
  raise UserError(f'config.task={config.task!r} is unknown.')


def _sizes(others):
  """Fields of the transformer that the two other models decide."""
  channels = folders.describe(
    others['autoencoder'], 'vae').spec.channels
  text_encoder = folders.describe(others['text_encoder'], 'text_encoder')
  return {'in_channels': channels, 'out_channels': channels,
          'caption_channels': text_encoder.width}


def find(workdir: epath.Path, step: int | None) -> epath.Path:
  """The checkpoint of a step, by default the newest; UserError without one."""
  there = saved.steps(workdir / 'checkpoints')
  if not there:
    raise UserError(f'--workdir={workdir} has no checkpoint yet.')
  if step is not None and step not in there:
    raise UserError(
      f'--step={step}: {workdir} has checkpoints of the steps '
      f'{", ".join(map(str, there))}; choose one of these (keep_every_steps '
      'keeps more).')
  return workdir / 'checkpoints' / str(there[-1] if step is None else step)


def read(checkpoint: epath.Path, weights: str | None) -> Params:
  """The weights of a checkpoint, each verified by its checksum.

  `weights` is one of WEIGHTS, by default the average where there is one.
  Raises UserError for what is not there or damaged.
  """
  try:
    saved.check_kinds(checkpoint)
    about = saved.read_json(checkpoint, saved.ABOUT)
    wanted = dict(zip(about['leaves'], about['state'], strict=True))
    has_average = any(name.startswith('ema.') for name in wanted)
    if weights == 'ema' and not has_average:
      raise UserError('--weights=ema: this run keeps no average (its ema_decay '
                      'is 0); use --weights params.')
    part = weights or ('ema' if has_average else 'params')
    params = {}
    for name in wanted:
      if name.startswith(f'{part}.'):
        x = saved.open_array(checkpoint, name).read().result()
        if saved.checksum(x) != wanted[name]:
          raise UserError(f'{checkpoint} is damaged: {name} differs from what '
                          'was saved; choose another --step.')
        _put(params, name.split('.')[1:], x)
  except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
    reason = (str(error).strip().splitlines() or [''])[0][:200]
    raise UserError(
      f'{checkpoint} cannot be read ({type(error).__name__}: {reason}); it is '
      'damaged, or the run has deleted it meanwhile: choose another --step.'
    ) from error
  return params


def _put(tree: dict, path: list[str], value: np.ndarray) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value
