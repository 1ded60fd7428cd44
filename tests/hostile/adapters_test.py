"""Hostile adapter files: every one is read entirely, or is one sentence."""

import json
import pathlib
import pickle

import numpy as np
import pytest
from safetensors import numpy as safetensors

from sana_jax.errors import UserError
from sana_jax.launch import cli
from sana_jax.weights import folder as folders
from sana_jax.weights.lora import names, reading
from sana_jax.weights.lora.writing import METADATA

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
MODEL = folders.describe(GOLDEN, 'transformer')
SHAPES = {
  layer.key.format(i=i): reading.weight_shape(layer)
  for layer in names.layers(MODEL).values()
  for i in range(layer.depth or 1)
}
WIDTH = MODEL.width
ENDINGS = (
  *('.lora_A.weight', '.lora_B.weight', '.lora_down.weight', '.alpha'),
  *('.dora_scale', '.lora_magnitude_vector', '.lokr_w1', '.lokr_w2_a'),
  *('.lokr_w2_b', '.lokr_w2', '.lora_mid.weight', '.bias', '', '.lora_A.'),
)
ODD_NAMES = (
  *(
    '',
    '.',
    '\x1b[2J',
    'x' * 3000,
    'é\u202e',
    '../a',
    '{i}',
    '{0}',
    'lora_te_',
  ),
  *('transformer.' * 500, 'lora_unet_', 'a' * 40_000, 'text_encoder.layers.0'),
)
# Take a backtracking engine 2^n steps, or are no regular expressions.
PATTERNS = (
  *('(a|a|aa)+$', '(.*)*x', '(?:[a-z_.0-9]*)*!', '(.+)+\\.q', '[', '(', '*'),
  *('(?P<x>a)(?P=x)', '(?=a)', '\\1', '.*' * 9, '(a|.)(a|.)' * 20, 'a{9999}'),
  *('x' * 100_000, '\\p', '(' * 5000, '(?i)a', '[z-a]', '', '|', 'to_q|to_k'),
)
VALUES = (None, True, -1, 0, 2, 1.5, 1e400, 'x', [], {}, [[]], 10**30, '\x1b')


def good(rng):
  """Tensors of an adapter of some layers."""
  draw, out = np.random.default_rng(rng.randrange(2**32)), {}
  for key in rng.sample(sorted(SHAPES), 4):
    shape, prefix = SHAPES[key], 'transformer.'
    ends = (1,) * (len(shape) - 2)
    out[f'{prefix}{key}.lora_A.weight'] = draw.normal(size=(2, *shape[1:]))
    out[f'{prefix}{key}.lora_B.weight'] = draw.normal(size=(shape[0], 2, *ends))
  return {key: np.float32(x) for key, x in out.items()}


def odd_array(rng, x):
  return rng.choice(
    [
      lambda: x.T,
      lambda: x[None],
      lambda: x[:0],
      lambda: x.reshape(-1),
      lambda: x[..., :1],
      lambda: np.float64(x) * 1e300,
      lambda: np.full_like(x, rng.choice([np.nan, np.inf, -np.inf])),
      lambda: x > 0,
      lambda: np.int64(x) * 2**62,
      lambda: np.zeros((1,) * 20, np.float32),
      lambda: np.float32(rng.choice([0, -1, 1e30])),
      lambda: np.zeros((2**17, 1), np.float32),
      lambda: np.zeros((0, 7), np.uint8),
    ]
  )()


def odd_tensors(rng, tensors):
  """Tensors that are missing, added, renamed or of another shape or dtype."""
  tensors = dict(tensors)
  for _ in range(rng.randrange(1, 4)):
    key = rng.choice(sorted(tensors))
    layer = key.rpartition('.lora')[0]
    match rng.randrange(5):
      case 0:
        tensors.pop(key)
      case 1:
        tensors[layer + rng.choice(ENDINGS)] = odd_array(rng, tensors[key])
      case 2:
        tensors[rng.choice(ODD_NAMES) + rng.choice(ENDINGS)] = tensors[key]
      case _:
        tensors[key] = odd_array(rng, tensors[key])
    tensors = tensors or good(rng)
  return tensors


def lokr(rng):
  """Factors, some of which have a product of gigabytes."""
  key = rng.choice(sorted(SHAPES))
  some = lambda: np.zeros(
    rng.choice([(2, 2), (3000, 3000), (2**20, 1), (4,), (0, 2), (4, 6), ()]),
    np.float32,
  )
  parts = rng.choice(
    [('w1', 'w2'), ('w1', 'w2_a', 'w2_b'), ('w1_a', 'w1_b', 'w2'), ('w2',)]
  )
  return {f'transformer.{key}.lokr_{part}': some() for part in parts}


def header(rng):
  """peft's config in the header of a file, odd or hostile."""
  field = rng.choice(['r', 'lora_alpha', 'use_rslora', 'alpha', 'x'])
  patterns = {rng.choice(PATTERNS): 2 for _ in range(rng.choice([1, 3, 900]))}
  many = {f'.*{i}.*': 2 for i in range(5000)}
  config = {
    field: rng.choice(VALUES),
    rng.choice(['rank_pattern', 'alpha_pattern']): rng.choice(
      [*[patterns] * 3, many, *VALUES]
    ),
  }
  text = json.dumps({f'transformer.{key}': x for key, x in config.items()})
  return rng.choice([text] * 4 + ['[' * 99_999, '', '{"a":' * 999, '[]'])


def write(rng, path):
  tensors, metadata = good(rng), {}
  kind = rng.randrange(4)
  if kind == 0:
    tensors = odd_tensors(rng, tensors)
  elif kind == 1:
    tensors |= lokr(rng)
  elif kind == 2:
    metadata = {METADATA: header(rng)}
  tensors = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
  safetensors.save_file(tensors, path, metadata)
  if kind == 3:
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(4)):
      data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])


def test_repeated_factors_of_lokr_keep_their_product(tmp_path):
  """Of a rank above that of the product, which is shortened."""
  key, draw = 'transformer_blocks.0.attn1.to_q', np.random.default_rng(0)
  a, b = (np.float32(draw.normal(size=s)) for s in ((WIDTH, 900), (900, WIDTH)))
  tensors = {'w1': np.ones((1, 1), np.float32), 'w2_a': a, 'w2_b': b}
  path = tmp_path / 'a.safetensors'
  safetensors.save_file(
    {f'{key}.lokr_{part}': x for part, x in tensors.items()}, path
  )
  low = reading.read(path, MODEL)[key]
  assert low.rank <= WIDTH
  np.testing.assert_allclose(low.up @ low.down, a @ b, atol=1e-3)


@pytest.mark.long
def test_a_hostile_adapter_fits_its_model_or_is_one_sentence(
  hostile, memory, tmp_path
):
  def read(path):
    try:
      return reading.read(path, MODEL)
    except UserError as error:
      said = str(error).replace(str(path), '')
      assert said.isprintable() and len(said) < 3000, said

  for i, rng in enumerate(hostile.cases(40, 1500)):
    path = tmp_path / f'{i}.safetensors'
    write(rng, path)
    found, grown = memory(read, path)
    assert grown < 100 * 2**20 + 20 * path.stat().st_size
    for key, low in (found or {}).items():
      assert low.down.shape[1:] == SHAPES[key][1:]
      assert low.up.shape[:2] == (SHAPES[key][0], low.rank)
      assert all(np.isfinite(x).all() for x in (low.down, low.up, low.scale))
    path.unlink()


@pytest.mark.parametrize(
  'pattern', ['attn1.to_(q|k)', r'transformer_blocks\.\d+\..*', '^x']
)
def test_usual_patterns_of_peft_are_read(pattern, tmp_path):
  text = json.dumps({'transformer.alpha_pattern': {pattern: 3}})
  path = tmp_path / 'a.safetensors'
  tensors = {
    'transformer.transformer_blocks.0.attn1.to_q.lora_A.weight': (2, WIDTH),
    'transformer.transformer_blocks.0.attn1.to_q.lora_B.weight': (WIDTH, 2),
  }
  safetensors.save_file(
    {k: np.ones(shape, np.float32) for k, shape in tensors.items()},
    path,
    {METADATA: text},
  )
  (low,) = reading.read(path, MODEL).values()
  assert low.scale == (1.0 if pattern == '^x' else 1.5)


class Canary:
  """Leaves a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), 'w')


@pytest.mark.parametrize('name', ['a.pth', 'a.bin', 'a.safetensors'])
def test_a_pickle_is_no_adapter(name, tmp_path, capsys):
  path, canary = tmp_path / name, tmp_path / 'canary'
  path.write_bytes(pickle.dumps(Canary(canary)))
  argv = ['lora', 'resize', '--lora', str(path), '--rank', '1']
  argv += ['--model', str(GOLDEN), '--to', str(tmp_path / 'out.safetensors')]
  assert cli.main(argv) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.count('\n') == 1 and name in err
  assert [x.name for x in tmp_path.iterdir()] == [name]
