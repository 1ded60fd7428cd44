"""`shapes` as a TFDS data set, without downloads or TensorFlow.

Images are passed to TFDS as encoded PNG, since it would encode arrays with
TensorFlow, and stored as ArrayRecord, which it reads without TensorFlow. Record
`i` of a split is `scene(seed, split, i, layout=layout)`.
"""

import contextlib
import dataclasses
import io
import json
import os

from absl import logging
from PIL import Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils
from tqdm import tqdm

from sana_jax.data.shapes.captions import SPLITS
from sana_jax.data.shapes.render import render
from sana_jax.data.shapes.scenes import scene
from sana_jax.errors import UserError
from sana_jax.paths import expanded_or_url

TRAIN, HELDOUT = 24_000, 2_000
MOST_PX = 4096


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
  """Side of the images in pixels, and examples of the two splits."""

  name: str = ''  # Derived from the other fields.
  size: int = 64
  train: int = TRAIN
  heldout: int = HELDOUT
  seed: int = 0
  layout: str = 'grid'

  def __post_init__(self):
    # Encodes all fields, so that other data are never taken for these.
    self.name = str(self.size)
    if (self.train, self.heldout, self.seed) != (TRAIN, HELDOUT, 0):
      self.name += f'-{self.train}-{self.heldout}-seed{self.seed}'
    if self.layout != 'grid':
      self.name += f'-{self.layout}'


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Captioned scenes of four shapes and six colours."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [ShapesConfig(size=64), ShapesConfig(size=128)]

  def _info(self):
    size = self.builder_config.size
    return tfds.core.DatasetInfo(
      builder=self,
      description='Captioned scenes of the six GenEval kinds, drawn exactly.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(size, size, 3), encoding_format='png'
          ),
          'caption': tfds.features.Text(),
          'kind': tfds.features.Text(),
          'scene': tfds.features.Text(),  # JSON of the Scene.
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split):
    config = self.builder_config
    count = getattr(config, split)
    for index in tqdm(
      range(count), f'shapes/{config.name} {split}', unit='image', disable=None
    ):
      drawn = scene(config.seed, split, index, layout=config.layout)
      yield (
        index,
        {
          'image': _png(render(drawn, config.size)),
          'caption': drawn.caption,
          'kind': drawn.kind,
          'scene': json.dumps(drawn, default=vars),
        },
      )


def prepare(
  data_dir: str | os.PathLike,
  size: int = 64,
  train_examples: int = TRAIN,
  seed: int = 0,
  heldout_examples: int = HELDOUT,
  layout: str = 'grid',
) -> tfds.core.DatasetBuilder:
  """Builder of the data set, whose data are written if they are missing.

  TFDS writes to a temporary folder and renames it at the end, so an interrupted
  preparation never looks complete.
  """
  for name, value, least, most in (
    ('size', size, 8, MOST_PX),
    ('train_examples', train_examples, 1, 2**31),
    ('heldout_examples', heldout_examples, 1, 2**31),
    ('seed', seed, 0, 2**63),
  ):
    if not least <= value <= most:
      raise UserError(
        f'{name}={value} is invalid for shapes; set it to {least} to {most}.',
        key=name,
        value=value,
        allowed=f'{least} to {most}',
      )
  config = ShapesConfig(
    size=size,
    train=train_examples,
    seed=seed,
    heldout=heldout_examples,
    layout=layout,
  )
  folder = expanded_or_url(data_dir)
  open_builder = lambda: Shapes(
    data_dir=folder,
    file_format='array_record',
    # TFDS requires its own object for a configuration in BUILDER_CONFIGS.
    config=Shapes.builder_configs.get(config.name, config),
  )
  with _quiet():
    builder = open_builder()
    try:
      builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
      # Another process may have completed the same data meanwhile.
      if isinstance(error, OSError) and builder.data_path.exists():
        return open_builder()
      if getattr(error, 'errno', None):
        raise
      # Raised by TFDS or ArrayRecord, for a full disk among others.
      raise UserError(
        f'Writing shapes to {data_dir} failed ({error}); check space and '
        'permissions there, or choose another folder.',
        value=data_dir,
      ) from error
  return builder


def _png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'png', compress_level=1)
  buffer.seek(0)
  return buffer


@contextlib.contextmanager
def _quiet():
  """Suppresses output, logs and progress bars of TFDS; ours is on stderr."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tqdm_utils.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.enable_progress_bar()
    logging.set_verbosity(verbosity)
