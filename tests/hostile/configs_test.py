"""Changed configs of a model folder load as a legal model or are refused."""

import copy
import functools
import json
import math
import os
import pathlib
import shutil
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import model_index
from sana_jax.inference.schedulers import read_scheduler, time_grid
from sana_jax.tasks import init_from
from sana_jax.text import tokenizer as tokenizers
from sana_jax.weights import exchange, kinds
from sana_jax.weights import folder as folders

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'
PARTS = ('transformer', 'vae', 'text_encoder', 'controlnet')
FILES = (
  *(f'{part}/config.json' for part in PARTS),
  'model_index.json',
  'scheduler/scheduler_config.json',
  'tokenizer/tokenizer_config.json',
  'tokenizer/tokenizer.json',
)
MOST_BYTES = 300 * 2**20  # Of memory, for one file.
VALUES = (
  None,
  True,
  False,
  0,
  1,
  -1,
  2,
  3,
  7,
  10**9,
  2**31,
  2**63,
  10**30,
  10**400,
  1.5,
  2.0,
  -0.0,
  1e-300,
  1e308,
  math.nan,
  math.inf,
  -math.inf,
  '',
  'x',
  '10',
  'gemma2',
  'silu',
  '\0',
  '\x1b[2J',
  '\u202e',
  'a\nb',
  'x' * 10**6,
  [],
  [[]],
  {},
  {'a': 1},
  [10**9],
  [1] * 9,
  [10**9] * 6,
  ['ResBlock'] * 6,
  [[5]] * 6,
  [0] * 10**5,
  [[[[[1]]]]],
  {'__class__': 'os.system'},
  '{{ 7*7 }}',
  {'content': 'x'},
  {'rope_theta': 'x'},
  {'AutoTokenizer': ['evil.Evil']},
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A whole model folder, and a ControlNet of the same sizes."""
  folder = shutil.copytree(GOLDEN, tmp_path_factory.mktemp('models') / 'model')
  config = json.loads((GOLDEN / 'transformer/config.json').read_text())
  config = {
    k: v
    for k, v in config.items()
    if not k.startswith('guidance') and k not in ('qk_norm', 'timestep_scale')
  } | {'_class_name': 'SanaControlNetModel', 'num_layers': 1}
  kind = kinds.PARTS['controlnet']
  module = kind.module(config, jnp.float32)
  folders.write(
    folder,
    'controlnet',
    module,
    jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), kind.shapes(module)
    ),
  )
  return folder


@functools.cache
def shapes(folder, part):
  """Shapes that the weights have: no config can change them."""
  module = folders.describe(folder, part)
  return jax.tree.map(np.shape, kinds.PARTS[part].shapes(module))


def load(folder, file):
  """Whatever reads that file; asserts that what is loaded is legal."""
  part = file.partition('/')[0]
  if part in PARTS:
    module, variables = folders.load(folder, part)
    kind = kinds.PARTS[part]
    config = kind.config(folders.module_fields(module))
    again = kind.module(config, jnp.float32)
    assert kind.config(folders.module_fields(again)) == config
    assert jax.tree.map(np.shape, variables) == shapes(folder, part)
  elif part == 'scheduler':
    sampler, shift = read_scheduler(folder)
    assert np.isfinite(time_grid(sampler, 4, shift).times).all()
  elif part == 'tokenizer':
    tokenizer = tokenizers.load(folder / part)
    model_index.check_parts(folder, tokenizer)
    assert tokenizer.encode('') == [tokenizer.bos_token_id]
    assert max(tokenizer.encode('a Red circle\n\n<eos>')) < 600
  else:
    assert set(model_index.read(folder)) <= {'steps', 'guidance_scale'}


def nodes(value):
  """Every (container, key) in a JSON value."""
  items = (
    value.items()
    if isinstance(value, dict)
    else (enumerate(value) if isinstance(value, list) else ())
  )
  for key, child in list(items):
    yield value, key
    yield from nodes(child)


def changed_value(rng, text):
  content = json.loads(text)
  for _ in range(rng.choice([1, 1, 1, 2, 3])):
    places = list(nodes(content))
    # The many tokens of a vocabulary would hide everything else.
    places = (
      places
      if len(places) < 200
      else [places[0], *rng.sample(places[:60], 9), *rng.sample(places, 20)]
    )
    where, key = rng.choice(places)
    match rng.randrange(6):
      case 0:
        where.pop(key)
      case 1:
        where[key] = [where[key]]
      case 2:
        where[key] = {str(key): where[key]}
      case 3 if type(where[key]) in (int, float):
        where[key] *= rng.choice([-1, 0, 2, 1.0, 10**6, 10**12])
      case _:
        where[key] = copy.deepcopy(rng.choice(VALUES))
    if isinstance(where, dict) and rng.random() < 0.1:
      where[rng.choice(['', '_', 'auto_map', 'zebra', '\x1b'])] = copy.deepcopy(
        rng.choice(VALUES)
      )
  return json.dumps(content)


def changed_text(rng, text):
  """Text that other programs may write, or that no JSON is."""
  key = rng.choice(list(json.loads(text)))
  deep = rng.choice([10, 500, 100_000])
  value = rng.choice(
    [
      '[' * deep + ']' * deep,
      '{"a":' * deep + '1' + '}' * deep,
      '[' * deep,
      '9' * 5_000,
      '1e999',
      '"\\ud83d"',
      '"\\ud83d\\udc31"',
      '-',
      '01',
      "'x'",
      '"' + 'y' * 2**21 + '"',
    ]
  )
  return rng.choice(
    [
      lambda: text[: rng.randrange(len(text))],
      lambda: '\ufeff' + text,
      lambda: text + rng.choice(['}', ' ', '\0', text]),
      lambda: f'{{{json.dumps(key)}: {value}, {text.lstrip()[1:]}',
      lambda: f'{text.rstrip()[:-1]}, {json.dumps(key)}: {value}}}',
      lambda: f'{text.rstrip()[:-1]}, "zebra": {value}}}',
      lambda: value,
      lambda: ''.join(
        c if rng.random() > 0.01 else rng.choice('"{}[]:,0\0é') for c in text
      ),
      lambda: rng.choice(['', 'null', '[]', '{}', '"a"', 'NaN', '\0' * 1000]),
    ]
  )()


def changed_file(rng, path):
  """Bytes and files that are no text."""
  data = path.read_bytes()
  path.unlink()
  match rng.randrange(7):
    case 0:
      os.mkfifo(path)
    case 1:
      path.mkdir()
    case 2:
      path.symlink_to(
        rng.choice(
          [
            '/dev/zero',
            '/dev/stdin',
            path.name,
            '/proc/self/mem',
            'absent',
            '.',
          ]
        )
      )
    case 3:
      path.write_bytes(data)
      os.truncate(path, 10 * 2**30)  # Sparse.
    case 4:
      path.write_bytes(data.decode().encode('utf-16'))
    case 5:
      path.write_bytes(
        bytes(rng.choice([*data[:50], 255, 128, 0]) for _ in range(200))
      )
    case 6:
      pass


def changed(rng, path):
  text = path.read_text()
  match rng.randrange(10):
    case 0:
      changed_file(rng, path)
    case 1 | 2:
      path.write_bytes(changed_text(rng, text).encode(errors='replace'))
    case _:
      path.write_text(changed_value(rng, text))


def restored(path):
  if path.is_dir() and not path.is_symlink():
    path.rmdir()
  path.unlink(missing_ok=True)


def peak_bytes():
  """The most memory that this process had since `forget_peak`."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(
    int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')
  )


def forget_peak():
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def assert_one_message(error):
  """Short, of lines whose characters can all be seen."""
  text = str(error)
  assert 0 < len(text) < 12_000
  assert not [
    c
    for c in text
    if unicodedata.category(c) in ('Cc', 'Cf', 'Cs') and c != '\n'
  ]


ABSURD = (
  ('transformer', {'num_layers': 10**9}),
  ('transformer', {'num_layers': 900}),
  ('transformer', {'in_channels': 10**9}),
  ('transformer', {'patch_size': 10**6, 'sample_size': 10**6}),
  ('transformer', {'attention_head_dim': 10**9}),
  ('transformer', {'mlp_ratio': 1e300}),
  ('transformer', {'sample_size': 2**31}),
  ('vae', {'encoder_layers_per_block': [10**9, 1, 1]}),
  ('vae', {'decoder_layers_per_block': [32, 32, 32]}),
  ('vae', {'in_channels': 10**9}),
  ('vae', {'attention_head_dim': 0}),
  (
    'vae',
    {
      key: [value] * 10**5
      for key, value in {
        'encoder_block_out_channels': 8,
        'encoder_layers_per_block': 1,
      }.items()
    },
  ),
  ('vae', {'decoder_qkv_multiscales': [[], [], [10**9 + 1]]}),
  ('vae', {'decoder_qkv_multiscales': [[], [], [5] * 10**5]}),
  ('text_encoder', {'num_hidden_layers': 10**9}),
  ('text_encoder', {'vocab_size': 10**12}),
  ('text_encoder', {'head_dim': 10**9}),
  ('text_encoder', {'head_dim': -8}),
  ('text_encoder', {'layer_types': ['full_attention'] * 10**6}),
  ('controlnet', {'num_layers': 10**9}),
  ('controlnet', {'patch_size': 10**6, 'sample_size': 10**6}),
)


def compare(folder, part):
  """As a run that starts from the folder's model does."""
  init_from.compare(str(folder), part, folders.describe(GOLDEN, part))


@pytest.mark.parametrize('part, changes', ABSURD, ids=lambda x: str(x)[:40])
def test_absurd_sizes_are_refused_before_anything_is_built(
  folder, tmp_path, hostile, part, changes
):
  folder = shutil.copytree(folder, tmp_path / 'model')
  path = folder / part / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  readers = [
    lambda: folders.load(folder, part),
    lambda: exchange.open_source(str(folder / part)),
  ]
  if part != 'controlnet':
    readers.append(lambda: compare(folder, part))
  forget_peak()
  before = peak_bytes()
  with hostile.bounded():
    for read in readers:
      with pytest.raises(UserError) as caught:
        read()
      assert_one_message(caught.value)
  assert peak_bytes() - before < MOST_BYTES


@pytest.mark.long
def test_a_changed_config_is_a_legal_model_or_one_error(folder, hostile):
  refused = loaded = 0
  for file in FILES:
    load(folder, file)  # Compiles and imports, outside the bounds.
  for rng in hostile.cases(90, 900):
    path = folder / rng.choice(FILES)
    whole = path.read_bytes()
    changed(rng, path)
    forget_peak()
    before = peak_bytes()
    try:
      load(folder, str(path.relative_to(folder)))
      loaded += 1
    except UserError as e:
      assert_one_message(e)
      refused += 1
    finally:
      restored(path)
      path.write_bytes(whole)
    assert peak_bytes() - before < MOST_BYTES
  assert loaded + refused > 0
