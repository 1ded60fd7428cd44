"""sana-jax lora, and --lora of other commands."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.launch import flags
from sana_jax.weights import folder as folders
from sana_jax.weights import weight_files
from sana_jax.weights.lora import names, reading, writing
from sana_jax.weights.lora.lows import Low

KEYS = ['transformer_blocks.0.attn1.to_q', 'transformer_blocks.1.attn2.to_v']
STEM = 'diffusion_pytorch_model'


def module(folder):
  return folders.describe(folder, 'transformer')


def product(low):
  return low.scale * np.float64(low.up) @ low.down


def tensors(folder):
  found = weight_files.read(folder / 'transformer', STEM)
  return {
    key: np.float64(x.read().astype(jnp.float32)) for key, x in found.items()
  }


@pytest.fixture
def adapter(tiny_sana, tmp_path):
  """A file of rank 3 for two layers, and what it adds to them."""
  rng = np.random.default_rng(0)
  width = module(tiny_sana).width
  draw = lambda *shape: np.float32(rng.normal(size=shape))
  updates = {key: Low(draw(3, width), draw(width, 3), 0.1) for key in KEYS}
  path = tmp_path / 'style.safetensors'
  writing.write_file(path, updates)
  assert set(KEYS) < set(names.keys(module(tiny_sana)))
  return path, {key: product(low) for key, low in updates.items()}


@pytest.fixture
def lora(cli, tiny_sana, tmp_path):
  """Runs sana-jax lora; returns the updates that it wrote."""

  def run(action, *more):
    to = tmp_path / f'{action}.safetensors'
    code, out, err = cli(
      'lora', action, '--model', tiny_sana, '--to', to, *more
    )
    assert code == 0, err
    assert re.search('2 layers, rank [0-9]+; relative error', out)
    return reading.read(to, module(tiny_sana))

  return run


def assert_products(got, want):
  assert set(got) == set(want)
  for key, low in got.items():
    np.testing.assert_allclose(product(low), want[key], rtol=1e-4, atol=1e-5)


def test_an_adapter_is_resized(adapter, lora):
  path, want = adapter
  assert_products(lora('resize', '--lora', path, '--rank', '8'), want)


def test_several_adapters_become_one(adapter, lora):
  path, want = adapter
  got = lora('merge', '--lora', path, '--lora', f'{path}:-0.25')
  assert_products(got, {key: 0.75 * x for key, x in want.items()})


@pytest.mark.long
def test_a_merged_model_differs_by_the_adapter_which_is_extracted(
  adapter, cli, lora, tiny_sana, tmp_path
):
  path, want = adapter
  to = tmp_path / 'merged'
  code, _, err = cli(
    *('convert', '--from', tiny_sana, '--to', to, '--format', 'diffusers'),
    *('--lora', f'{path}:2'),
  )
  assert code == 0, err
  before, after = tensors(tiny_sana), tensors(to)
  for key, x in before.items():
    update = want.get(key.removesuffix('.weight'), 0)
    np.testing.assert_allclose(after[key], x + 2 * update, rtol=1e-4, atol=1e-5)
  found = lora('extract', '--tuned', to, '--rank', '3')
  for key, low in found.items():
    np.testing.assert_allclose(
      product(low), 2 * want[key], rtol=1e-2, atol=1e-3
    )


@pytest.mark.long
def test_invalid_requests_write_nothing(adapter, cli, tiny_sana, tmp_path):
  path, _ = adapter
  to = tmp_path / 'out.safetensors'
  given = ('--model', tiny_sana, '--to', to)
  for arguments in (
    ('lora', 'resize', *given, '--rank', '2', '--lora', tmp_path / 'missing'),
    ('lora', 'resize', *given, '--rank', '2', '--lora', path, '--lora', path),
    ('lora', 'resize', *given, '--rank', '0', '--lora', path),
    (
      'lora',
      'resize',
      '--rank',
      '2',
      '--lora',
      path,
      *given[:3],
      tmp_path / 'x',
    ),
    ('lora', 'extract', *given, '--rank', '2', '--tuned', tiny_sana),
    (
      *(
        'convert',
        '--from',
        tiny_sana,
        '--part',
        'vae',
        '--format',
        'diffusers',
      ),
      *('--to', tmp_path / 'y', '--lora', path),
    ),
  ):
    code, _, err = cli(*arguments)
    assert code == 2 and err.startswith('sana-jax: error: ')
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
  'value, want',
  [
    ('a.safetensors', ('a.safetensors', 1.0)),
    ('a:0.5', ('a', 0.5)),
    ('a:b:-2', ('a:b', -2.0)),
    ('a:b', ('a:b', 1.0)),
  ],
)
def test_a_weight_follows_the_last_colon(value, want):
  assert flags.weighted(value) == want


@pytest.mark.parametrize('value', [':1', 'a:1000', ''])
def test_an_invalid_weight_is_refused(value):
  with pytest.raises(flags.Invalid):
    flags.weighted(value)
