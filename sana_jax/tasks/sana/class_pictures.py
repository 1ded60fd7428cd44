"""Pictures of a class for prior preservation (DreamBooth, arXiv:2208.12242).

Every second row of a batch is a picture that the model drew of the class, such
as 'a dog', before it is trained on a few dogs, so that it does not forget the
others. They are drawn once, in the sizes of the run's own pictures, with the
instruction, dtype and sampler of the run's samples. An interrupted drawing is
resumed.
"""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import itertools
import json
import os
from typing import Any, NamedTuple

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from sana_jax.data import files
from sana_jax.errors import UserError
from sana_jax.inference import images
from sana_jax.printable import counted
from sana_jax.tasks import common
from sana_jax.tasks.sana import drawing
from sana_jax.training.workdir import barrier, resolve, writing
from sana_jax.tree import flatten
from sana_jax.typing import Int
from sana_jax.weights import folder as folders
from sana_jax.weights import hub

_BATCH = 4  # Pictures at a time.
_SETTINGS = (
  'init_from',
  'autoencoder',
  'text_encoder',
  'dtype',
  'flow.instruction',
  'sampling.sampler',
  'sampling.steps',
  'sampling.guidance_scale',
  'sampling.shift',
)


class Wanted(NamedTuple):
  """A picture to draw; `size` is its (height, width).

  The ratio of the size may be nearest to that of another bucket, as sides are
  rounded to whole latents.
  """

  size: tuple[int, int]
  ratio: float
  prompt: str

  def described(self) -> dict[str, Any]:
    """Content of its .json: the prompt, and a size of the bucket's ratio."""
    return {
      'prompt': self.prompt,
      'height': round(1000 * self.ratio),
      'width': 1000,
    }


def is_used(config: ConfigDict) -> bool:
  """Whether a config has prior preservation."""
  prior = config.get('prior')
  return bool(prior and (prior.class_prompt or prior.path))


def spread(own: Sequence[Int[np.ndarray, '_']], count: int) -> list[int]:
  """Buckets of `count` pictures of the class, in proportion to the run's own.

  Each bucket of the run's own is among them, if need be by more pictures.
  """
  used = [bucket for bucket, found in enumerate(own) if len(found)]
  every = [bucket for bucket, found in enumerate(own) for _ in found]
  rest = max(count - len(used), 0)
  return used + [every[i * len(every) // rest] for i in range(rest)]


def members(
  own: Sequence[Int[np.ndarray, '_']],
  others: Sequence[Int[np.ndarray, '_']],
  sizes: Sequence[tuple[int, int]],
  count: int,
) -> list[Int[np.ndarray, '_']]:
  """Records of the class in each bucket, numbered after the run's `count`.

  Raises UserError for a size of the run's own without any.
  """
  out = [
    count + np.asarray(x, int)
    for x, _ in itertools.zip_longest(others, own, fillvalue=())
  ]
  for bucket, found in enumerate(own):
    if len(found) and not len(out[bucket]):
      height, width = sizes[bucket]
      raise UserError(
        f'No class picture has the size {width} x {height} of '
        f'{counted(len(found), "picture")}; add some of it to '
        'config.prior.path, set config.inputs.aspect_ratios to false, or leave '
        'config.prior.path empty, which draws them.',
        key='prior.path',
        value=(width, height),
      )
  return out


def prepare(
  config: ConfigDict,
  workdir: os.PathLike | str,
  own: Sequence[Int[np.ndarray, '_']],
  sizes: Sequence[tuple[int, int]],
) -> ConfigDict:
  """Config of the data of the class, whose missing pictures are drawn.

  Args:
    own: records of the run's own in each bucket.
    sizes: (height, width) of each bucket.
  """
  path = config.prior.path
  prompts = drawing.prompts(config.prior.class_prompt)
  if not path:
    ratios = common.bucket_ratios(config)
    chosen = spread(own, config.prior.num_class_images)
    wanted = {
      f'{i:05d}.png': Wanted(sizes[bucket], ratios[bucket], prompt)
      for i, (bucket, prompt) in enumerate(
        zip(chosen, itertools.cycle(prompts))
      )
    }
    path = os.fspath(resolve(workdir) / 'class' / _digest(config, wanted))
    _complete(config, path, wanted)
  out = ConfigDict(config.to_dict())
  out.data.update(
    source='folder',
    path=path,
    instance_prompt=prompts[0] if prompts else '',
    trigger_word='',
    tag_orders=0,
    masks='',
    min_score=0.0,
    min_size_px=0,
    max_aspect_ratio=0.0,
  )
  out.inputs.cache = ''
  return out


def check(config: ConfigDict) -> None:
  """Raises UserError for a run that has no pictures of a class."""
  if config.batch_size % 2:
    raise UserError(
      f'config.batch_size={config.batch_size} must be even with '
      'config.prior: every second picture of a batch is one of the class.',
      key='batch_size',
      value=config.batch_size,
      allowed='even numbers',
    )
  if not (config.prior.path or config.init_from):
    raise UserError(
      'config.prior.class_prompt needs config.init_from, whose model draws '
      'the pictures, or such pictures in config.prior.path.',
      key='init_from',
      value='',
    )


def _digest(config, wanted):
  """Name of the folder of these pictures, by all that changes them."""
  values = flatten(config, '.')
  text = json.dumps([[values[key] for key in _SETTINGS], [*wanted.values()]])
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _complete(config, path, wanted):
  """Draws the pictures that are missing, each process its own."""
  there = files.list_recursively(path) if files.is_folder(path) else ()
  missing = [name for name in wanted if name not in there]
  barrier('the class pictures are listed')
  mine = missing[jax.process_index() :: jax.process_count()]
  if mine:
    logging.info(
      'Drawing %s of %r for prior preservation.',
      counted(len(mine), 'class picture'),
      config.prior.class_prompt,
    )
    with writing(path):
      for name, image in _drawn(config, {name: wanted[name] for name in mine}):
        # The caption first: pictures that exist are not drawn again.
        about = f'{path}/{name.removesuffix(".png")}.json'
        files.write(about, json.dumps(wanted[name].described()).encode())
        files.write(f'{path}/{name}', images.encode(image, '.png'))
  barrier('the class pictures are drawn')


def _drawn(config, wanted: Mapping) -> Iterator:
  """(name, pixels) of each picture, drawn by the seed in its name."""
  pipe = drawing.pipeline(
    config,
    folders.load(hub.find(config.init_from), 'transformer', config.dtype),
  )
  with tqdm(
    desc='class pictures', total=len(wanted), unit='image', disable=None
  ) as bar:
    for size, names in _by_size(wanted).items():
      for start in range(0, len(names), _BATCH):
        group = names[start : start + _BATCH]
        # Repeated to a full batch, for one compiled shape.
        full = (group * _BATCH)[:_BATCH]
        seeds = [int(name.partition('.')[0]) for name in full]
        prompts = [wanted[name].prompt for name in full]
        yield from zip(group, drawing.draw(pipe, config, prompts, seeds, size))
        bar.update(len(group))


def _by_size(wanted):
  """Names by (height, width)."""
  out = {}
  for name, picture in wanted.items():
    out.setdefault(picture.size, []).append(name)
  return out
