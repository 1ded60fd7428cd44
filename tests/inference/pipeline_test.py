"""A whole folder saved by diffusers gives the pictures that diffusers makes.

tests/golden/tiny_sana and its golden.safetensors are written by
tests/tools/parity/goldens_sana.py, with diffusers and transformers alone.
"""

import json
import pathlib
import shutil
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from sana_jax import Pipeline
from sana_jax.diffusion import samplers
from sana_jax.diffusion.guidance import Guidance
from sana_jax.errors import UserError
from sana_jax.inference import arguments, decoding, randomness, texts
from sana_jax.inference.strip_decoding import Strips
from sana_jax.inference.tiling import Tiles
from sana_jax.models.autoencoders import base
from sana_jax.sharding.mesh import make_mesh
from sana_jax.text.prompts import INSTRUCTION

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
# One shape, two pictures a call, so that little is compiled.
SMALL = dict(height=16, width=16, steps=2)


@pytest.fixture(scope='module')
def golden():
  """The reference's arrays by name, and 'prompts', 'negative_prompt', ..."""
  with safetensors.safe_open(FOLDER / 'golden.safetensors', 'np') as f:
    metadata = f.metadata()
    arrays = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
  for key in ('prompts', 'guidance_scale', 'size'):
    metadata[key] = json.loads(metadata[key])
  return metadata | arrays


def like_golden(golden, prompts=slice(None)):
  """The arguments with which the reference was called."""
  height, width = golden['size']
  return dict(
    prompts=golden['prompts'][prompts],
    num_images=2,
    height=height,
    width=width,
    negative_prompt=golden['negative_prompt'],
    guidance_scale=golden['guidance_scale'],
  )


def relative_error(got, want):
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.long
@pytest.mark.parametrize(
  'sampler, steps', [('dpm', 2), ('dpm', 20), ('euler', 20)]
)
def test_latents_are_those_of_diffusers(pipe, golden, sampler, steps):
  got = pipe.draw(
    **like_golden(golden),
    latents=golden['noise'],
    steps=steps,
    sampler={'dpm': None, 'euler': 'euler'}[sampler],
    output_type='latent',
  )
  want = golden[f'{sampler}_{steps}.latents']
  assert relative_error(got, want) <= 1e-4


def test_images_are_those_of_diffusers(pipe, golden):
  same = dict(like_golden(golden), latents=golden['noise'], steps=2)
  got = pipe.draw(**same, output_type='float')
  want = golden['dpm_2.images']
  assert np.abs(got - want).max() <= 2e-3
  levels = pipe.draw(**same)
  assert levels.dtype == np.uint8
  assert np.abs(levels - want * 255.0).max() <= 0.5 + 2e-3 * 255


@pytest.mark.long
def test_cutting_off_padded_text_changes_nothing(pipe, golden):
  # The reference has 300 tokens for each; in one call ours has them for all.
  lengths = [
    texts.text_length(pipe.tokenizer, [p], INSTRUCTION)
    for p in golden['prompts']
  ]
  assert lengths == [16, 32, 300]
  part = slice(2, 4)
  got = pipe.draw(
    **like_golden(golden, slice(1, 2)),
    steps=2,
    latents=golden['noise'][part],
    output_type='latent',
  )
  assert relative_error(got, golden['dpm_2.latents'][part]) <= 1e-4


@pytest.mark.long
def test_a_picture_does_not_depend_on_its_neighbours(pipe):
  make = lambda prompts, **how: pipe.draw(
    prompts, **SMALL, output_type='float', **how
  )
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)
  cat, lamps = make(['a cat', 'two lamps'], seed=[5, 6])
  close(make(['two lamps', 'a red circle'], seed=[6, 7])[0], lamps)
  first, second = make('a cat', seed=5, num_images=2)
  close(first, cat)
  assert np.abs(second - cat).max() > 1e-2
  # Picture 1 of its prompt, in another place.
  close(
    make(['two lamps', 'a cat'], seed=[6, 5], numbers=[0, 1]),
    np.stack([lamps, second]),
  )


def test_the_same_call_gives_the_same_bytes_and_another_seed_does_not(pipe):
  make = lambda seed: pipe.draw(
    'a red circle', **SMALL, num_images=2, seed=seed
  )
  np.testing.assert_array_equal(make(3), make(3))
  assert (make(3) != make(4)).any()


def test_output_types_and_sizes(pipe):
  made = {
    kind: pipe.draw('a cat', **SMALL, num_images=2, output_type=kind)
    for kind in arguments.OUTPUT_TYPES
  }
  assert made['latent'].shape == (2, 4, 4, 4)
  assert made['float'].shape == made['uint8'].shape == (2, 16, 16, 3)
  assert (made['float'] >= 0).all() and (made['float'] <= 1).all()
  np.testing.assert_array_equal(
    made['uint8'], np.round(made['float'] * 255).astype(np.uint8)
  )
  assert pipe.size_px == 32


def test_levels_are_rounded_halves_to_even():
  got = decoding.to_uint8(jnp.array([0.0, 0.5 / 255, 1.5 / 255, 1.0]))
  np.testing.assert_array_equal(got, [0, 0, 2, 255])


def test_guidance_of_one_ignores_the_negative_prompt(pipe):
  make = lambda scale, negative: pipe.draw(
    'a cat',
    **SMALL,
    num_images=2,
    guidance_scale=scale,
    negative_prompt=negative,
    output_type='latent',
  )
  np.testing.assert_array_equal(make(1.0, 'blurry'), make(1.0, 'a lamp'))
  assert np.abs(make(4.5, 'blurry') - make(4.5, 'a lamp')).max() > 1e-3


@pytest.mark.long
def test_a_mesh_of_eight_gives_the_pictures_of_one_device(pipe):
  how = dict(SMALL, num_images=2, output_type='float')
  split = pipe.replace(mesh=make_mesh({'data': 4, 'fsdp': 2}))
  prompts = ['a cat', 'a lamp', 'a red circle', 'blue flowers']
  noise = split.noise(*randomness.of_pictures(4, 0, 2), (16, 16))
  assert {s.data.shape for s in noise.addressable_shards} == {(1, 4, 4, 4)}
  alone = np.concatenate([pipe.draw(p, **how) for p in prompts])
  np.testing.assert_allclose(split.draw(prompts, **how), alone, atol=2e-5)
  # Two do not divide; each device makes both.
  np.testing.assert_allclose(split.draw('a cat', **how), alone[:2], atol=2e-5)


@pytest.mark.long
def test_rows_split_over_a_mesh_give_the_same_pictures(pipe):
  how = dict(SMALL, num_images=2, output_type='float')
  split = pipe.replace(mesh=make_mesh({'data': 2, 'sequence': 4}))
  images = split.draw('a cat', **how)
  rows = {s.data.shape[1] for s in images.addressable_shards}
  assert rows == {16 // 4}
  np.testing.assert_allclose(images, pipe.draw('a cat', **how), atol=2e-5)


@pytest.mark.parametrize('parts', ['strips', Strips(8), 'whole'])
def test_strips_change_no_picture(pipe, parts):
  how = dict(SMALL, num_images=2, output_type='float')
  np.testing.assert_allclose(
    pipe.draw('a cat', **how, parts=parts), pipe.draw('a cat', **how), atol=1e-5
  )


def test_tiles_are_cut_where_requested(pipe):
  how = dict(SMALL, num_images=2)
  tiles = pipe.draw('a cat', **how, parts=Tiles(8, 8), output_type='float')
  latents = pipe.draw('a cat', **how, output_type='latent')
  corner = pipe.decode(jnp.asarray(latents[:, :2, :2]))
  np.testing.assert_allclose(tiles[:, :8, :8], corner, atol=1e-5)


@pytest.mark.long
def test_guidance_takes_its_options_by_name(pipe):
  make = lambda **how: pipe.draw(
    'a cat', **SMALL, num_images=2, output_type='latent', **how
  )
  by_name = make(guidance_scale=3.0, guidance={'pag_scale': 2.0})
  np.testing.assert_array_equal(
    by_name, make(guidance=Guidance(3.0, pag_scale=2.0))
  )
  assert np.abs(by_name - make(guidance_scale=3.0)).max() > 1e-3
  assert np.abs(make(flow_shift=1.0) - make()).max() > 1e-3


@pytest.mark.long
def test_bfloat16_runs_and_resembles_float32(pipe):
  half = Pipeline.from_pretrained(FOLDER, dtype='bfloat16')
  leaf = half.transformer.variables['params']['head']['out']['kernel']
  assert leaf.dtype == jnp.bfloat16
  how = dict(SMALL, num_images=2, output_type='latent')
  got = half.draw('a cat', **how)
  assert got.dtype == np.float32
  assert 1e-5 < relative_error(got, pipe.draw('a cat', **how)) <= 0.1


BAD = (
  ('height', 30, 'a multiple of 4, such as 28'),
  ('width', 2, 'a multiple of 4, such as 4'),
  ('height', 0, 'a whole number from 1 to 32,768'),
  ('width', -8, 'a whole number from 1 to 32,768'),
  ('steps', 0, 'a whole number from 1 to 1,000'),
  ('num_images', 0, 'a whole number from 1 to 1,048,576'),
  ('guidance_scale', -1.0, 'a number from 0 to 1000'),
  ('flow_shift', 0.0, 'a number from 0.001 to 1000'),
  ('parts', 'slices', ('strips', 'tiles', 'whole')),
  ('sampler', 'ddim', samplers.NAMES),
  ('output_type', 'pil', arguments.OUTPUT_TYPES),
  ('seed', -1, 'a whole number from 0 to 2,147,483,647'),
  ('seed', 2**31, 'a whole number from 0 to 2,147,483,647'),
)


def refused(pipe, **changes):
  """The error of a call with bad arguments."""
  with pytest.raises(UserError) as error:
    pipe.draw(**{'prompts': 'a cat', 'steps': 2, **changes})
  return error.value


def test_a_bad_argument_raises_a_user_error(pipe):
  for key, value, allowed in BAD:
    error = refused(pipe, **{key: value})
    assert (error.key, error.value, error.allowed) == (key, value, allowed)


def test_a_bad_part_of_an_argument_raises_a_user_error(pipe):
  for changes, key, value in (
    (dict(guidance_scale=float('nan')), 'guidance_scale', 'nan'),
    (dict(guidance={'pag': 1}), 'guidance', 'pag'),
    (dict(guidance={'pag_scale': -1.0}), 'pag_scale', '-1.0'),
    (dict(guidance={'interval': (0.9, 0.1)}), 'interval', '(0.9, 0.1)'),
    (dict(parts=Strips(6)), 'parts', '6'),
    (dict(seed=[1, 2]), 'seed', 'None'),
    (dict(numbers=[0, 1]), 'numbers', 'None'),
    (dict(latents=np.zeros((1, 4, 4, 4))), 'latents', '(1, 4, 4, 4)'),
    (dict(prompts=[]), 'prompt', 'None'),
  ):
    error = refused(pipe, **changes)
    assert (error.key, str(error.value)) == (key, value)


def test_a_bad_dtype_or_folder_raises_a_user_error(tmp_path):
  for dtype in ('int8', 'half-ish'):
    with pytest.raises(UserError) as error:
      Pipeline.from_pretrained(FOLDER, dtype=dtype)
    assert (error.value.key, error.value.value) == ('dtype', dtype)
  for folder, value in (
    ('nowhere', 'nowhere'),
    (tmp_path, tmp_path / 'model_index.json'),
  ):
    with pytest.raises(UserError) as error:
      Pipeline.from_pretrained(folder)
    assert error.value.value == value


def edited(tmp_path, file, **changes):
  """A copy of the folder with other values in one of its JSON files."""
  folder = shutil.copytree(FOLDER, tmp_path / 'model')
  path = folder / file
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  return folder


def test_other_pipelines_are_refused_by_name(tmp_path):
  folder = edited(tmp_path, 'model_index.json', _class_name='FluxPipeline')
  with pytest.raises(UserError) as error:
    Pipeline.from_pretrained(folder)
  assert (error.value.key, error.value.value) == ('_class_name', 'FluxPipeline')
  assert 'SanaPipeline' in error.value.allowed


@pytest.mark.parametrize(
  'sample_size, ratio, want',
  [
    (32, 16 / 9, (768, 1344)),
    (32, 1.0, (1024, 1024)),
    (16, 0.25, (1024, 256)),
    (8, 1.0, (32, 32)),
    (8, 2.0, (24, 44)),
    (8, 1 / 2, (44, 24)),
  ],
)
def test_an_aspect_ratio_is_a_trained_size_or_of_the_same_area(
  pipe, sample_size, ratio, want
):
  factor = 32 if sample_size > 8 else 4
  model = pipe.transformer
  pipe = pipe.replace(
    transformer=model._replace(
      module=model.module.clone(sample_size=sample_size)
    ),
    autoencoder=pipe.autoencoder._replace(
      module=Compression(base.LatentSpec(4, (factor, factor)))
    ),
  )
  assert pipe.size_of_ratio(ratio) == want


class Compression(NamedTuple):
  """All that a size needs of an autoencoder."""

  spec: base.LatentSpec


def test_arguments_have_the_names_of_diffusers_too(pipe):
  how = dict(SMALL, output_type='latent')
  steps = how.pop('steps')
  np.testing.assert_array_equal(
    pipe(
      'a cat', num_inference_steps=steps, num_images_per_prompt=2, **how
    ).images,
    pipe.draw('a cat', steps=steps, num_images=2, **how),
  )


def test_a_call_gives_pil_images_with_the_pixels_of_draw(pipe):
  made = pipe('a cat', **SMALL, num_images=2)
  assert [image.size for image in made.images] == [(16, 16)] * 2
  np.testing.assert_array_equal(
    np.stack(made.images), pipe.draw('a cat', **SMALL, num_images=2)
  )


def test_an_unknown_output_type_names_those_of_a_call(pipe):
  with pytest.raises(UserError) as error:
    pipe('a cat', output_type='png')
  assert error.value.key == 'output_type'
  assert error.value.allowed == ('pil', 'uint8', 'float', 'latent')
