"""Pictures that start from an image, or repaint a part of it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import Pipeline
from sana_jax.errors import UserError
from sana_jax.inference import decoding, input_image
from sana_jax.sharding.mesh import make_mesh

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
PROMPT = 'a red circle'
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
MASK = np.zeros((16, 24), bool)
MASK[2:9, 10:15] = True
HOW = dict(steps=2, seed=3, guidance_scale=2.0)


def uint8(pipe, **how):
  how = {**HOW, 'image': IMAGE, **how}
  return pipe(PROMPT, output_type='uint8', **how).images


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'scm'])
def test_unmasked_pixels_are_those_of_the_image_bit_for_bit(editor, sampler):
  got = uint8(editor, mask=MASK, sampler=sampler, num_images=2)
  assert got.shape == (2, 16, 24, 3)
  for picture in got:
    np.testing.assert_array_equal(picture[~MASK], IMAGE[~MASK])
    assert (picture != IMAGE)[MASK].mean() > 0.5
  assert (got[0] != got[1])[MASK].mean() > 0.1


@pytest.mark.long
def test_a_blur_changes_pixels_up_to_the_end_of_its_support(editor):
  (got,) = uint8(editor, mask=MASK, mask_blur=1)
  y, x = np.nonzero(MASK)
  rows, columns = np.mgrid[:16, :24]
  far = np.ones((16, 24), bool)
  far[max(0, y.min() - 6) : y.max() + 7, max(0, x.min() - 6) : x.max() + 7] = 0
  np.testing.assert_array_equal(got[far], IMAGE[far])
  assert (got != IMAGE)[~MASK].any()


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['dpm++2m', 'scm'])
def test_strength_0_is_the_decoded_encoding(editor, sampler):
  latents = input_image.encoded(editor.autoencoder, IMAGE)
  want = decoding.to_uint8(editor.decode(latents))
  for how in (dict(), dict(mask=np.ones_like(MASK))):
    got = uint8(editor, strength=0, sampler=sampler, num_images=2, **how)
    for picture in got:
      np.testing.assert_array_equal(picture, want[0])


@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'scm'])
def test_strength_1_is_the_picture_of_the_text_to_the_bit(editor, sampler):
  how = HOW | dict(sampler=sampler, num_images=2)
  want = editor.draw(PROMPT, height=16, width=24, **how)
  np.testing.assert_array_equal(uint8(editor, strength=1, **how), want)
  other = editor.draw(PROMPT, height=16, width=24, **how | dict(seed=4))
  assert (np.asarray(other) != want).mean() > 0.5


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['euler', 'dpm++2m', 'scm'])
def test_a_lower_strength_stays_closer_to_the_image(editor, sampler):
  latents = input_image.encoded(editor.autoencoder, IMAGE)
  far = [
    np.linalg.norm(
      editor.draw(
        PROMPT,
        **HOW | dict(steps=8),
        image=IMAGE,
        strength=strength,
        sampler=sampler,
        output_type='latent',
        on_step=lambda done: None,
      )
      - latents
    )
    for strength in (0, 0.01, 0.2, 0.6)
  ]
  assert far[0] == 0 and far == sorted(far)
  assert far[1] < 0.2 * np.linalg.norm(latents)


@pytest.mark.long
def test_a_picture_depends_on_its_seed_and_number_alone(editor):
  how = dict(mask=MASK, sampler='scm', strength=0.7)
  want = uint8(editor, num_images=2, **how)[1]
  got = uint8(editor, numbers=[1], **how)[0]
  assert np.abs(np.int16(got) - want).max() <= 1  # Of other batch sizes.


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['dpm++2m', 'scm'])
def test_steps_one_by_one_give_the_same_picture(editor, sampler):
  how = dict(mask=MASK, sampler=sampler, steps=4, strength=0.6)
  done, estimates = [], []
  got = uint8(
    editor,
    **how,
    on_step=done.append,
    on_estimate=lambda k, latents: estimates.append(latents()),
  )
  want = uint8(editor, **how)
  assert np.abs(np.int16(got) - want).max() <= 1
  assert done == [1, 2, 3, 4][: 3 if sampler == 'dpm++2m' else 4]
  assert len(estimates) == len(done)


def test_an_empty_mask_gives_the_image_with_a_warning(editor, caplog):
  got = uint8(editor, mask=np.zeros_like(MASK), num_images=2)
  np.testing.assert_array_equal(got, np.stack([IMAGE] * 2))
  assert [r.levelname for r in caplog.records] == ['WARNING']


@pytest.mark.long
def test_a_crop_draws_at_the_models_own_size(editor):
  """A box around a mask in a large image, of which the rest is untouched."""
  image = np.random.default_rng(1).integers(0, 256, (90, 150, 3), np.uint8)
  mask = np.zeros((90, 150), bool)
  mask[40:50, 100:112] = True
  latents = editor.draw(
    PROMPT,
    **HOW,
    image=image,
    mask=mask,
    padding_mask_crop=4,
    output_type='latent',
  )
  side = editor.autoencoder.module.spec.side
  assert latents.shape[1] * latents.shape[2] * side**2 <= 1.2 * 32 * 32
  (got,) = uint8(editor, image=image, mask=mask, padding_mask_crop=4)
  np.testing.assert_array_equal(got[~mask], image[~mask])
  assert (got != image)[mask].mean() > 0.5


@pytest.mark.long
def test_any_size_of_an_image_comes_back(editor):
  image = np.random.default_rng(1).integers(0, 256, (13, 22, 3), np.uint8)
  mask = np.zeros((13, 22), bool)
  mask[5:, :6] = True
  (got,) = uint8(editor, image=image, mask=mask)
  np.testing.assert_array_equal(got[~mask], image[~mask])
  (got,) = uint8(editor, image=image, height=26)
  assert got.shape == (26, 44, 3)


@pytest.mark.long
def test_tiles_encode_an_image_that_they_decode(editor):
  """Latents of tiles, as tiling.encode has them, differ from the whole's."""
  from sana_jax.inference import tiling
  from sana_jax.inference.tiling import Tiles
  from sana_jax.models.autoencoders import base
  from sana_jax.objectives.reconstruction import to_signed

  tiles, model = Tiles(16, 12), editor.autoencoder
  how = dict(strength=0, output_type='latent')
  image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
  got = editor.draw(PROMPT, **HOW, **how, image=image, parts=tiles)
  latents = tiling.encode(
    model.module, model.variables, to_signed(jnp.asarray(image[None])), tiles
  )
  want = base.unscaled(model.module, got)
  np.testing.assert_allclose(want, latents, rtol=1e-5, atol=1e-5)
  whole = editor.draw(PROMPT, **HOW, **how, image=image)
  assert np.abs(np.asarray(got - whole)).max() > 1e-3
  small = editor.draw(PROMPT, **HOW, **how, image=image[:16, :16], parts=tiles)
  same = editor.draw(PROMPT, **HOW, **how, image=image[:16, :16])
  np.testing.assert_array_equal(small, same)


@pytest.mark.long
def test_a_mesh_gives_the_same_picture(editor):
  mesh = make_mesh({'data': -1}, jax.local_devices()[:2])
  split = Pipeline.from_pretrained(FOLDER, 'float32', mesh, encoder=True)
  how = dict(mask=MASK, num_images=2, strength=0.7)
  got, want = (uint8(pipe, **how) for pipe in (split, editor))
  assert np.abs(np.int16(got) - want).max() <= 1


@pytest.mark.parametrize(
  'how, key',
  [
    (dict(image=None, mask=MASK), 'mask'),
    (dict(mask=MASK[:8]), 'mask'),
    (dict(strength=1.5), 'strength'),
    (dict(strength=-0.1), 'strength'),
    (dict(mask=MASK, mask_blur=-1), 'mask_blur'),
    (dict(mask=MASK, padding_mask_crop=-1), 'padding_mask_crop'),
    (dict(mask=MASK, mask_image=MASK), 'mask'),
  ],
  ids=lambda x: str(x)[:30],
)
def test_bad_edits_are_refused(editor, how, key):
  with pytest.raises(UserError) as refused:
    uint8(editor, **how)
  assert refused.value.key == key


def test_the_mask_has_diffusers_name_too(editor):
  want = uint8(editor, mask=MASK)
  np.testing.assert_array_equal(uint8(editor, mask_image=MASK), want)


def test_an_image_needs_the_encoder(pipe):
  with pytest.raises(UserError) as refused:
    uint8(pipe)
  assert refused.value.key == 'image'


def pictures_of(editor, prompts, **how):
  how = {**HOW, 'steps': 2, 'output_type': 'float', **how}
  return editor(prompts, **how).images


OTHER = np.random.default_rng(9).integers(0, 256, (16, 24, 3), np.uint8)
PROMPTS = ['a red circle', 'two stars']


@pytest.mark.long
@pytest.mark.parametrize(
  'how',
  [
    dict(image=[IMAGE, OTHER]),
    dict(image=[IMAGE, OTHER], mask=[MASK, MASK[::-1]]),
    dict(image=IMAGE, mask=[MASK, MASK[::-1]], strength=0.7),
    dict(image=[IMAGE, OTHER], mask=MASK, mask_blur=2),
    dict(image=[IMAGE, OTHER], mask=[MASK, MASK & False]),
    dict(image=[IMAGE, OTHER[:12]], height=16, width=16),
  ],
  ids=lambda how: ' '.join(how),
)
def test_each_prompt_has_its_own_image_and_mask(editor, how):
  both = pictures_of(editor, PROMPTS, seed=[3, 4], num_images=2, **how)
  assert len(both) == 4
  for i, prompt in enumerate(PROMPTS):
    own = {k: x[i] if isinstance(x, list) else x for k, x in how.items()}
    alone = pictures_of(editor, prompt, seed=3 + i, num_images=2, **own)
    np.testing.assert_allclose(both[2 * i : 2 * i + 2], alone, atol=2e-5)


@pytest.mark.parametrize(
  'how, key',
  [
    (dict(image=[IMAGE] * 3), 'image'),
    (dict(image=[]), 'image'),
    (dict(image=[IMAGE, OTHER[:12]]), 'image'),
    (dict(image=[IMAGE, None]), 'image'),
    (dict(image=[IMAGE, OTHER], mask=[MASK] * 3), 'mask'),
    (dict(image=[IMAGE, OTHER], mask=[MASK, MASK[:4]]), 'mask'),
    (
      dict(
        image=IMAGE,
        mask=[MASK, np.ones_like(MASK)],
        padding_mask_crop=0,
        height=64,
        width=96,
      ),
      'padding_mask_crop',
    ),
  ],
  ids=lambda x: str(x)[:20],
)
def test_images_that_do_not_fit_their_prompts_are_refused(editor, how, key):
  with pytest.raises(UserError) as refused:
    pictures_of(editor, PROMPTS, **how)
  assert refused.value.key == key
