"""Weights of adapters in the demo's requests."""

import io
import math

import adapter_files
import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import adapters, demo, denoising
from sana_jax.inference.demo import DrawRequest, Limits

LIMITS = Limits(size_px=64, steps=30, images=4)
GOOD = DrawRequest('a red circle', '', 16, 16, 2, 4.5, 7, 1, 'dpm++2m')


@pytest.fixture(scope='module')
def tuned(pipe, tmp_path_factory):
  """A pipeline with a LoRA of weight 1 and a DoRA of weight 0.5."""
  folder = tmp_path_factory.mktemp('lora')
  module = pipe.transformer.module
  style = adapter_files.write(folder / 'style.safetensors', module)
  other = adapter_files.write(
    folder / 'other.safetensors', module, seed=1, dora=True
  )
  return pipe.load_lora(style).load_lora(other, 0.5)


def drawn(pipe, lora):
  (file,) = demo.draw(pipe, GOOD._replace(lora=lora), LIMITS, 'tiny')
  with Image.open(io.BytesIO(file.content)) as image:
    return np.asarray(image), image.text


def pixels(pipe):
  (image,) = pipe.draw('a red circle', height=16, width=16, steps=2, seed=7)
  return np.asarray(image)


@pytest.mark.long
def test_a_picture_follows_the_weights_which_are_in_its_metadata(tuned):
  got, about = drawn(tuned, None)
  np.testing.assert_array_equal(got, pixels(tuned))
  assert about['lora'] == 'style:1 other:0.5'
  assert about['parameters'].endswith(', Lora: "style:1 other:0.5"')
  got, about = drawn(tuned, {'style': 0.25})
  want = tuned.set_adapters(['style', 'other'], [0.25, 0.5])
  np.testing.assert_array_equal(got, pixels(want))
  assert about['lora'] == 'style:0.25 other:0.5'


@pytest.mark.long
def test_other_weights_compile_nothing_and_0_is_off(tuned, pipe):
  both = pixels(pipe), pixels(tuned)
  assert (both[0] != both[1]).any()
  drawn(tuned, {'style': 1.5, 'other': -1})
  before = denoising._advance._cache_size(), denoising.denoise._cache_size()
  off, _ = drawn(tuned, {'style': 0, 'other': 0})
  drawn(tuned, {'style': 0, 'other': 2.0})
  drawn(tuned, {'style': 3, 'other': 0})
  after = denoising._advance._cache_size(), denoising.denoise._cache_size()
  assert before == after
  assert np.abs(np.int16(off) - both[0]).max() <= 1  # By another program.


def test_an_adapter_that_is_off_is_the_model_itself(tuned):
  """The factors of a LoRA are 0, and the gain of a DoRA is 1."""
  off = adapters.reweighed(tuned, {'style': 0.0, 'other': 0.0})
  found = off.transformer.variables['adapters']
  shapes = lambda pipe: jax.tree.map(
    np.shape, pipe.transformer.variables['adapters']
  )
  assert shapes(off) == shapes(tuned)
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    if path[-1].key in ('up', 'gain'):
      np.testing.assert_array_equal(leaf, path[-1].key == 'gain')


@pytest.mark.parametrize(
  'lora, value',
  [
    ({'stile': 1}, 'stile'),
    ({'../../etc/passwd': 1}, '../../etc/passwd'),
    ({'\x1b[2J\u202e': 1}, '\x1b[2J\u202e'),
    ({'style': 1e308}, 1e308),
    ({'style': 101}, 101),
    ({'style': 10**5000}, 10**5000),
    ({'style': math.inf}, math.inf),
    ({'style': '1'}, '1'),
    ({'style': True}, True),
    ({'style': None}, None),
    ({'style': {'path': '/etc'}}, {'path': '/etc'}),
    ('style', 'style'),
    ([1.0], [1.0]),
  ],
  ids=lambda x: str(type(x)),
)
def test_invalid_names_and_weights_are_one_sentence(tuned, lora, value):
  with pytest.raises(UserError) as refused:
    demo.check(tuned, GOOD._replace(lora=lora), LIMITS)
  error = refused.value
  assert (error.key, error.value) == ('lora', value)
  assert str(error).isprintable() and len(str(error)) < 200


def test_a_long_name_is_cut_before_it_is_compared(tuned):
  with pytest.raises(UserError) as refused:
    demo.check(tuned, GOOD._replace(lora={'x' * 10**7: 1}), LIMITS)
  assert len(str(refused.value)) < 200


def test_nan_is_refused(tuned):
  with pytest.raises(UserError) as refused:
    demo.check(tuned, GOOD._replace(lora={'style': math.nan}), LIMITS)
  assert refused.value.key == 'lora'


def test_a_demo_without_adapters_has_no_weights(pipe):
  assert demo.check(pipe, GOOD._replace(lora={}), LIMITS).lora is None
  with pytest.raises(UserError) as refused:
    demo.check(pipe, GOOD._replace(lora={'style': 1}), LIMITS)
  assert refused.value.allowed == ()
  assert not any(key.startswith('lora') for key in demo.keys(pipe))


def test_values_of_the_page_are_those_of_a_request(tuned):
  request = GOOD._replace(lora={'style': 0.3, 'other': 2})
  keys = demo.keys(tuned)
  assert keys[-2:] == ['lora.style', 'lora.other']
  flat = request._asdict() | {'lora.style': 0.3, 'lora.other': 2}
  assert demo.of_values({key: flat[key] for key in keys}) == request
