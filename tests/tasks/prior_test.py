"""Few pictures: weights of the loss, pictures of their class, and repeats."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax.data.images import read_image
from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.objectives import flow_matching
from sana_jax.tasks import common
from sana_jax.tasks.sana import class_pictures, inputs
from sana_jax.text.prompts import INSTRUCTION

pytestmark = pytest.mark.long
MODEL = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
SIDE = 4  # Pixels of a latent.
FEW = {'prior.class_prompt': 'a cat | a dog', 'prior.num_class_images': 6}


@pytest.fixture(scope='module')
def few(tmp_path_factory):
  """Three wide pictures and a tall one; one has a mask, none a caption."""
  path, rng = tmp_path_factory.mktemp('few'), np.random.default_rng(0)
  for i, shape in enumerate([(16, 32)] * 3 + [(32, 16)]):
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(path / f'{i}.png')
  mask = np.zeros((16, 32), np.uint8)
  mask[:, :16] = 255
  Image.fromarray(mask).save(path / '0.mask.png')
  return path


def config_of(small, path, **changes):
  return small(
    path,
    **{
      'data.instance_prompt': 'a photo of sks cat',
      'init_from': str(MODEL),
      'sampling.steps': 2,
      'batch_size': 4,
      **changes,
    },
  )


def steps(given, count=12, size=4):
  """The first batches, and the (height, width) of their latents."""
  found = given.batches(seed=0, batch_size=size, rows=range(size), threads=0)
  return [x for x, _ in zip(found, range(count))]


@pytest.fixture(scope='module')
def prior(small, few, tmp_path_factory):
  """(config, workdir, inputs) of a run with class pictures."""
  config = config_of(
    small, few, **FEW, **{'data.masks': 'files', 'prior.loss_weight': 0.5}
  )
  workdir = tmp_path_factory.mktemp('prior')
  return config, workdir, inputs.make(config, workdir)


def pictures(workdir):
  return sorted((workdir / 'class').glob('*/*.png'))


def test_the_model_draws_the_class_once_as_it_samples(prior):
  config, workdir, _ = prior
  drawn = pictures(workdir)
  sizes = [read_image(path).shape[:2] for path in drawn]
  # In proportion to the run's own, 3 : 1, and at least one of each.
  assert len(drawn) == 6 and sizes.count((20, 8)) in (1, 2)
  assert set(sizes) == {(20, 8), (8, 20)}
  pipe = Pipeline.from_pretrained(MODEL, dtype=jnp.float32)
  for number, (path, (height, width)) in enumerate(zip(drawn, sizes)):
    (expected,) = pipe(
      [['a cat', 'a dog'][number % 2]],
      height=height,
      width=width,
      steps=2,
      guidance_scale=config.sampling.guidance_scale,
      seed=[number],
      instruction=INSTRUCTION,
      sampler=config.sampling.sampler,
      flow_shift=config.sampling.shift,
      use_resolution_binning=False,
      output_type='uint8',
    ).images
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1
    about = json.loads(path.with_suffix('.json').read_text())
    assert about['prompt'] == ['a cat', 'a dog'][number % 2]


def test_drawing_is_resumed(prior, tmp_path):
  config, workdir, _ = prior
  shutil.copytree(workdir / 'class', tmp_path / 'class')
  first, lost, *_ = pictures(tmp_path)
  content, time = lost.read_bytes(), first.stat().st_mtime_ns
  lost.unlink()
  inputs.make(config, tmp_path)
  assert lost.read_bytes() == content
  assert first.stat().st_mtime_ns == time


def test_pictures_of_other_settings_are_drawn_again(prior):
  config, *_ = prior
  other = config.copy_and_resolve_references()
  other.sampling.steps = 3
  wanted = {'00000.png': class_pictures.Wanted((8, 20), 0.5, 'a cat')}
  name = class_pictures._digest(config, wanted)
  assert name == class_pictures._digest(config, dict(wanted))
  assert name != class_pictures._digest(other, wanted)


def test_every_second_row_is_of_the_class_with_its_weight(prior):
  *_, given = prior
  assert [len(m) for m in given.members if len(m)] == [3, 1]
  order = given._order(4, 0)
  shapes = set()
  for step, batch in enumerate(steps(given)):
    records = [order.record(step, row) for row in range(4)]
    assert [record >= 4 for record in records] == [False, True] * 2
    shapes.add(batch['latents'].shape[1:3])
    for record, weights in zip(records, batch['weights']):
      if record >= 4:
        assert (weights == 2 * 0.5).all()
      elif record == 0:  # The left half of its mask is white, up to the resize.
        assert (weights[:, :2] == 2).all() and (weights[:, -2:] == 0).all()
      else:
        assert (weights == 2).all()
  assert shapes == {(2, 5), (5, 2)}


def test_texts_of_the_class_and_of_the_pictures_have_one_length(prior):
  *_, given = prior
  texts = {x['text'].shape[1] for x in steps(given)}
  assert texts == {given.frozen['null_text'].shape[0]}


@pytest.mark.parametrize(
  'latents, text',
  [('online', 'online'), ('cached', 'online'), ('online', 'cached')],
)
def test_weights_are_those_of_a_cache(latents, text, prior, tmp_path):
  config, workdir, given = prior
  shutil.copytree(workdir / 'class', tmp_path / 'class')
  other = config.copy_and_resolve_references()
  other.inputs.update(latents=latents, text=text)
  made = inputs.make(other, tmp_path)
  for cached, batch in zip(steps(given), steps(made)):
    np.testing.assert_allclose(batch['weights'], cached['weights'], atol=1e-6)
    encoded = made.encode(made.frozen, batch)
    assert set(encoded) == {'latents', 'text', 'mask', 'weights'}
    np.testing.assert_allclose(encoded['latents'], cached['latents'], atol=1e-3)


def test_the_repeats_of_kohya_are_frequencies(small, few, tmp_path):
  for name, picture in (('3_cat', '1.png'), ('1_dog', '2.png')):
    (tmp_path / name).mkdir()
    shutil.copy(few / picture, tmp_path / name)
  config = config_of(small, tmp_path, **{'data.source': 'kohya'})
  for latents in 'cached', 'online':
    config.inputs.latents = latents
    given = inputs.make(config, tmp_path / 'run')
    (members,) = [m for m in given.members if len(m)]
    assert members.tolist() == [0, 1, 1, 1]  # By name: 1_dog, then 3_cat.
    assert given.class_members is None


def test_few_pictures_are_reported_once(small, few, tmp_path, caplog):
  caplog.set_level('INFO', 'absl')
  config = config_of(small, few)
  inputs.data(config, inputs.make(config, tmp_path))
  (line,) = [x for x in caplog.messages if 'repeat' in x]
  assert line.startswith('2 sizes of 2 ')


def test_a_class_needs_pairs_and_a_model_or_pictures(small, few, tmp_path):
  for key, changes in {
    'batch_size': {'batch_size': 3},
    'init_from': {'init_from': ''},
  }.items():
    config = config_of(small, few, **FEW, **changes)
    with pytest.raises(UserError) as error:
      inputs.make(config, tmp_path)
    assert error.value.key == key
    assert not (tmp_path / 'class').exists()


def test_given_pictures_of_a_class_must_have_the_sizes(small, few, tmp_path):
  (tmp_path / 'cats').mkdir()
  shutil.copy(few / '1.png', tmp_path / 'cats')
  config = config_of(
    small,
    few,
    **{'prior.class_prompt': 'a cat', 'prior.path': str(tmp_path / 'cats')},
  )
  with pytest.raises(UserError) as error:
    inputs.make(config, tmp_path / 'run')
  assert error.value.key == 'prior.path'
  assert error.value.value == (8, 20)
  config.inputs.aspect_ratios = False
  given = inputs.make(config, tmp_path / 'run')
  assert [x.tolist() for x in given.class_members] == [[4]]


def test_masks_are_for_tasks_whose_loss_has_weights():
  from sana_jax import config as base

  config = base.train('dc_ae')
  config.data.update(source='folder', masks='files')
  with pytest.raises(UserError) as error:
    base.check(config)
  assert error.value.key == 'data.masks'


@pytest.fixture(scope='module')
def loss(small, few):
  """Weights -> (loss, gradient), of random latents and text."""
  config = config_of(small, few)
  module = common.build(
    Sana, config, in_channels=4, out_channels=4, caption_channels=8
  )
  params = abstract.transformer_init(module)(jax.random.key(0))
  # The initial output is zero, so that gradients of inner layers are, too.
  params = jax.tree.map(lambda x: x + 0.1, params)
  key = jax.random.key(1)
  batch = {
    'latents': jax.random.normal(key, (2, 4, 4, 4)),
    'text': jax.random.normal(key, (2, 3, 8)),
    'mask': jnp.ones((2, 3), bool),
  }
  frozen = {'null_text': jnp.zeros((3, 8)), 'null_mask': jnp.ones(3, bool)}
  keys = jax.random.split(key, 2)
  objective = flow_matching.objective(
    module, config.flow, init=None, rules=None, tokens=3
  )

  @jax.jit
  def run(weights):
    given = batch if weights is None else {**batch, 'weights': weights}
    return jax.value_and_grad(
      lambda p: objective.loss(p, frozen, given, keys, 0)[0]
    )(params)

  return run


def test_the_loss_is_the_mean_of_weighted_squares(loss):
  mask = jnp.zeros((2, 4, 4)).at[0, :, :2].set(1.0).at[1, 1].set(0.25)
  plain, ones = loss(None), loss(jnp.ones((2, 4, 4)))
  inside, outside = loss(mask), loss(1 - mask)
  assert float(plain[0]) == pytest.approx(float(ones[0]), rel=1e-6)
  assert float(inside[0] + outside[0]) == pytest.approx(float(plain[0]), 1e-5)
  assert 0 < float(inside[0]) < float(plain[0])
  nothing = loss(jnp.zeros((2, 4, 4)))
  assert float(nothing[0]) == 0
  assert not any(x.any() for x in jax.tree.leaves(nothing[1]))
