"""Adapters of a pipeline: loaded, weighted, merged and refused."""

import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.weights.lora import names, reading, writing
from sana_jax.weights.lora.lows import Low

KEYS = [f'transformer_blocks.{i}.attn2.to_{x}' for i in range(6) for x in 'qv']


@pytest.fixture(scope='module')
def pipe():
  return Pipeline.from_pretrained('shapes', dtype='float32')


def file(path, pipe, seed=0, size=0.02):
  """A file with an adapter of the cross-attention."""
  rng = np.random.default_rng(seed)
  shapes = {
    layer.key.format(i=i): reading.weight_shape(layer)
    for layer in names.layers(pipe.transformer.module).values()
    for i in range(layer.depth or 1)
  }
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  writing.write_file(
    path,
    {
      key: Low(draw(2, shapes[key][1]), size * draw(shapes[key][0], 2), 1.0)
      for key in KEYS
    },
  )
  return path


def draw(pipe, **more):
  how = dict(steps=2, seed=1, output_type='latent')
  return np.asarray(pipe.draw('a red circle', **how, **more))


def assert_close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_weights_change_the_picture_and_none_leaves_the_models(pipe, tmp_path):
  plain = draw(pipe)
  one = pipe.load_lora(file(tmp_path / 'one.safetensors', pipe))
  both = one.load_lora(
    file(tmp_path / 'two.safetensors', pipe, 1), 0.5, name='second'
  )
  assert list(both.loras) == ['one', 'second'] and not pipe.loras
  changed = draw(one)
  assert np.abs(changed - plain).max() > 1e-2
  np.testing.assert_array_equal(draw(both.set_adapters([])), plain)
  assert_close(draw(both.set_adapters('one')), changed)
  assert_close(draw(both.fuse_lora()), draw(both))
  assert not both.fuse_lora().loras


@pytest.mark.long
def test_the_same_adapter_twice_is_one_of_twice_the_weight(pipe, tmp_path):
  path = file(tmp_path / 'a.safetensors', pipe)
  twice = pipe.load_lora(path).load_lora(path)
  assert list(twice.loras) == ['a', 'a_2']
  double = pipe.load_lora(path, 2.0)
  merged = lambda pipe: pipe.fuse_lora().transformer.variables['params']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    merged(twice),
    merged(double),
  )


@pytest.mark.long
def test_a_weight_by_block_leaves_the_other_blocks(pipe, tmp_path):
  path = file(tmp_path / 'a.safetensors', pipe)
  found = pipe.load_lora(path, {'transformer_blocks.2': 0.5})
  up = lambda pipe: np.asarray(
    pipe.transformer.variables['adapters']['blocks']['cross_attention'][
      'query'
    ]['up']
  )
  whole, part = up(pipe.load_lora(path)), up(found)
  np.testing.assert_allclose(part[2], 0.5 * whole[2], rtol=1e-6)
  np.testing.assert_array_equal(np.delete(part, 2, 0), np.delete(whole, 2, 0))


@pytest.mark.parametrize(
  'weight, key',
  [
    (float('nan'), 'weight'),
    ('1', 'weight'),
    (True, 'weight'),
    ({'transformer_blocks.6': 1.0}, 'weight'),
  ],
)
def test_an_invalid_weight_is_refused(pipe, tmp_path, weight, key):
  path = file(tmp_path / 'a.safetensors', pipe)
  with pytest.raises(UserError) as e:
    pipe.load_lora(path, weight)
  assert e.value.key == key


def test_names_are_checked(pipe, tmp_path):
  one = pipe.load_lora(file(tmp_path / 'style.safetensors', pipe))
  with pytest.raises(UserError) as e:
    one.set_adapters('stile')
  assert (e.value.key, e.value.allowed) == ('names', ('style',))
  assert 'did you mean style' in str(e.value)
  with pytest.raises(UserError) as e:
    one.set_adapters(['style'], [1.0, 2.0])
  assert e.value.key == 'weights'
  with pytest.raises(UserError) as e:
    one.load_lora(tmp_path / 'style.safetensors', name='style')
  assert e.value.key == 'name'


def test_diffusers_names_lead_to_ours(pipe):
  with pytest.raises(AttributeError, match='load_lora'):
    pipe.load_lora_weights('a')
