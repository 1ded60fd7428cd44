"""Hostile safetensors files and indices: loaded as the library does or refused.

Within ten seconds, in memory bounded by the file's size. The library is the
oracle for every regular file: what one of both reads, the other reads alike.
"""

import contextlib
import json
import os

import numpy as np
import safetensors

from sana_jax.errors import UserError
from sana_jax.weights import exchange, weight_files
from sana_jax.weights import safetensors_files as files
from sana_jax.weights.tensors import stored

ODD = [
  -1,
  0,
  1,
  2**31,
  2**32,
  2**62,
  2**63,
  2**64,
  10**30,
  1.0,
  2.5,
  True,
  None,
  'x',
  [],
  {},
  float('inf'),
]
# Where the reader is stricter than the library.
STRICTER = 'the name|the dtype|an invalid shape'


def some_tensors(rng):
  return {
    f'x.{i}.{t}': np.frombuffer(rng.randbytes(48), t).reshape(shape)
    for i, (t, shape) in enumerate(
      [('f4', (3, 4)), ('i8', (6,)), ('u1', (2, 4, 6)), ('f2', (24, 1))]
    )
  } | {'empty': np.zeros((0, 3), 'f4'), 'scalar': np.array(rng.random())}


def good(rng, path):
  files.write_file(path, {k: stored(x) for k, x in some_tensors(rng).items()})


def parts_of(path):
  data = path.read_bytes()
  end = 8 + int.from_bytes(data[:8], 'little')
  return data[8:end], data[end:]


def put(path, header, body, size=None):
  header = (
    header.encode('utf-8', 'surrogatepass')
    if (isinstance(header, str))
    else header
  )
  size = len(header) if size is None else size
  path.write_bytes((size % 2**64).to_bytes(8, 'little') + header + body)


def damaged(rng, path):
  """Bytes that are flipped, cut out or put in."""
  good(rng, path)
  data = bytearray(path.read_bytes())
  for _ in range(rng.randrange(1, 4)):
    place = rng.randrange(len(data))
    data[place : place + rng.choice([0, 1, 1, 4])] = rng.choice(
      [b'', rng.randbytes(1), rng.randbytes(8)]
    )
  path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])


def lying_size(rng, path):
  good(rng, path)
  header, body = parts_of(path)
  put(
    path,
    header,
    body,
    rng.choice(
      [
        0,
        1,
        2,
        len(header) - 1,
        len(header) + 1,
        10**8,
        2**31,
        2**62,
        2**63,
        2**64 - 1,
        len(header) + len(body),
      ]
    ),
  )


def odd_fields(rng, path):
  """Values of the header replaced by numbers, types and names that are odd."""
  good(rng, path)
  header, body = parts_of(path)
  fields = json.loads(header)
  for _ in range(rng.randrange(1, 4)):
    key = rng.choice([*fields, '__metadata__'])
    about = fields.get(key)
    if (
      not isinstance(about, dict)
      or key == '__metadata__'
      or (rng.random() < 0.2)
    ):
      fields[key] = rng.choice(ODD)
      continue
    name = rng.choice(['dtype', 'shape', 'data_offsets', 'more'])
    value = about.get(name)
    if isinstance(value, list) and value and rng.random() < 0.7:
      value[rng.randrange(len(value))] = rng.choice([*ODD, *range(200)])
    elif name == 'dtype':
      about[name] = rng.choice([*files._DTYPES, 'F4', 'C64', 'f32', '\x1b'])
    else:
      about[name] = rng.choice(ODD)
  put(path, json.dumps(fields), body)


def odd_layout(rng, path):
  """Tensors that overlap, leave gaps, or whose sizes overflow."""
  about = lambda shape, begin, end: {
    'dtype': 'F32',
    'shape': shape,
    'data_offsets': [begin, end],
  }
  put(
    path,
    json.dumps(
      rng.choice(
        [
          {'a': about([4], 0, 16), 'b': about([4], 8, 24)},
          {'a': about([4], 0, 16), 'b': about([1], 20, 24)},
          {
            'a': about([4], 0, 16),
            'b': about([4], 0, 16),
            'c': about([2], 16, 24),
          },
          {'a': about([6], 0, 24), 'b': about([0, 2**40], 24, 24)},
          {'a': about([6], 0, 24), 'b': about([0, 2**40, 2**40], 0, 0)},
          {'a': about([6], 0, 24), 'b': about([2**32, 2**32], 24, 24)},
          {'a': about([2**62, 4, 6], 0, 24)},
          {'a': about([6] + [1] * 99, 0, 24)},
          {'a': about([6], 24, 0)},
          {'a': about([6], 0, 24)},
          {},
        ]
      )
    ),
    bytes(24),
  )


def odd_json(rng, path):
  """Headers that are no JSON, nested, doubled, or large."""
  n = rng.choice([10, 1000, 10**5])
  about = '{"dtype":"U8","shape":[],"data_offsets":[0,1]}'
  put(
    path,
    rng.choice(
      [
        '[' * n,
        '{"a":' * n,
        '{"a":' * n + '1' + '}' * n,
        '[]',
        '1',
        'null',
        '',
        '{"a":' + '9' * n + '}',
        f'{{"a":{about},"a":{about}}}',
        ' ' * n + '{}',
        f'{{"a":{about}}}' + ' ' * n,
        f'\ufeff{{"a":{about}}}',
        '{"a":NaN}',
        f'{{"__metadata__":{{"a":"{"x" * n}"}},"a":{about}}}',
        f'{{"a":{about},}}',
        f'{{"a":{about}}}x',
        '[' + '[],' * n + '[]]',
        b'\xff\xfe{}',
        '\0' * n,
      ]
    ),
    rng.randbytes(1),
  )


def odd_names(rng, path):
  name = rng.choice(
    [
      '\x1b[2J',
      'a\nb',
      '\0',
      '',
      'x' * 2000,
      '\ud83d',
      '\u202e',
      '../a',
      '__metadata__',
      'é',
      '{i}',
      '\U0001f408',
    ]
  )
  put(
    path,
    json.dumps(
      {name: {'dtype': 'U8', 'shape': [3], 'data_offsets': [0, 3]}},
      ensure_ascii=rng.random() < 0.5,
    ),
    b'abc',
  )


KINDS = [
  damaged,
  damaged,
  damaged,
  lying_size,
  odd_fields,
  odd_fields,
  odd_fields,
  odd_layout,
  odd_json,
  odd_json,
  odd_names,
]


def read(path):
  """(arrays, '') of a file, or (None, the sentence that refuses it)."""
  try:
    return {k: t.read() for k, t in files.read_file(path).items()}, ''
  except UserError as e:
    said = str(e).replace(str(path), '')
    assert said.isprintable() and len(said) < 2000
    return None, said


def by_library(path):
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  except (
    safetensors.SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
  ):
    return None


def assert_alike(got, want):
  assert got.keys() == want.keys()
  for key, x in got.items():
    assert (x.shape, x.dtype) == (want[key].shape, want[key].dtype)
    assert x.tobytes() == want[key].tobytes()


def one_file(rng, special, memory, path):
  make = rng.choice([*KINDS, special])
  print(make.__name__)
  make(rng, path)
  (got, said), grown = memory(read, path)
  regular = path.is_file()
  assert grown < 150 * 2**20 + 30 * (regular and path.stat().st_size)
  want = by_library(path) if regular else None
  if got is not None and want is not None:
    assert_alike(got, want)
  elif regular:
    assert want is None or any(x in said for x in STRICTER.split('|')), said
  with contextlib.suppress(UserError):
    exchange.open_source(str(path))


def some_name(rng, folder):
  """Of a file of tensors, or not."""
  return rng.choice(
    [
      'good.safetensors',
      'deep/good.safetensors',
      '../good.safetensors',
      '..',
      '.',
      '',
      'deep',
      str(folder / 'good.safetensors'),
      'good.safetensors\0',
      'x' * 5000 + '.safetensors',
      '\ud83d.safetensors',
      'odd.safetensors',
      'twin.safetensors',
      'none.safetensors',
      '\x1b[2J.safetensors',
      'model.safetensors.index.json',
      7,
      None,
      [],
      {},
      ['good.safetensors'],
    ]
  )


def some_text(rng, places):
  """Of an index, or None."""
  n = rng.choice([10, 10**5])
  return rng.choice(
    [json.dumps({'weight_map': places})] * 6
    + [
      json.dumps({'weight_map': rng.choice([[], None, 'x', {}])}),
      '[]',
      '',
      '{"weight_map":' * n,
      '{"weight_map":' + '9' * n + '}',
      '\ud83d',
      None,
    ]
  )


def one_index(rng, special, memory, folder):
  """An index, and files beside it of which some are hostile."""
  good(rng, folder / 'good.safetensors')
  keys = list(files.read_file(folder / 'good.safetensors'))
  (folder / 'deep').mkdir()
  good(rng, folder / 'deep' / 'good.safetensors')
  special(rng, folder / 'odd.safetensors')
  os.link(folder / 'good.safetensors', folder / 'twin.safetensors')
  places = dict.fromkeys(keys, 'good.safetensors')
  for key in rng.sample(keys, rng.randrange(3)):
    places[key] = some_name(rng, folder)
  index = folder / 'model.safetensors.index.json'
  text = some_text(rng, places)
  if text is None:
    special(rng, index)
  else:
    index.write_bytes(text.encode('utf-8', 'surrogatepass'))
  whole = (
    set(places.values())
    if all(isinstance(x, str) for x in places.values())
    else None
  )

  def loaded():
    try:
      return {
        k: t.read() for k, t in weight_files.read(folder, 'model').items()
      }
    except UserError as e:
      said = str(e).replace(str(folder), '')
      assert said.isprintable() and len(said) < 2000, said

  got, grown = memory(loaded)
  assert grown < 150 * 2**20
  if got is not None:
    assert whole == {'good.safetensors'}
    assert_alike(got, by_library(folder / 'good.safetensors'))


def test_a_hostile_file_or_index_loads_alike_or_is_one_sentence(
  hostile, special, memory, tmp_path
):
  for i, rng in enumerate(hostile.cases(12, 120)):
    folder = tmp_path / str(i)
    folder.mkdir()
    if rng.random() < 0.3:
      one_index(rng, special, memory, folder)
    else:
      one_file(rng, special, memory, folder / 'x.safetensors')
