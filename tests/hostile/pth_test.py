"""Hostile .pth files: each loads what it should, or is one UserError.

Within ten seconds, in memory bounded by the file's size, and without running
anything: the exploits among them would leave a file.
"""

import contextlib
import os
import pickle
import re
import struct
import subprocess
import zipfile

import numpy as np

from sana_jax.errors import UserError
from sana_jax.weights import exchange, pickling, pth
from sana_jax.weights.pickled import Storage, Tensor
from sana_jax.weights.tensors import stored

F32 = np.dtype(np.float32)
W = Tensor(Storage(F32, '0', 12), 2, (2, 3), (1, 4))
DATA = np.arange(12, dtype=np.float32).tobytes()
# As the strides of W lay it out.
VALUES = np.array([[2, 6, 10], [3, 7, 11]], np.float32)
ARGUMENTS = {  # Of the operations that have one: bytes of it.
  b'I': lambda r: b'%d\n' % r.randrange(-9, 99),
  b'K': lambda r: r.randbytes(1),
  b'M': lambda r: r.randbytes(2),
  b'J': lambda r: r.randbytes(4),
  b'G': lambda r: r.randbytes(8),
  b'F': lambda r: b'1e%d\n' % r.randrange(400),
  b'V': lambda r: b'key\n',
  b'S': lambda r: b"'text'\n",
  b'L': lambda r: b'9L\n',
  b'X': lambda r: b'\1\0\0\0' + r.choice([b'k', b'\n', b'\x1b']),
  b'\x8c': lambda r: b'\5posix',
  b'U': lambda r: b'\1w',
  b'C': lambda r: b'\2xx',
  b'B': lambda r: r.randbytes(4),
  b'\x8a': lambda r: b'\2ab',
  b'\x8b': lambda r: r.randbytes(4),
  b'\x8d': lambda r: r.randbytes(8),
  b'\x96': lambda r: r.randbytes(8),
  b'q': lambda r: bytes([r.randrange(4)]),
  b'r': lambda r: r.randbytes(4),
  b'h': lambda r: bytes([r.randrange(4)]),
  b'j': lambda r: b'\0\0\0\0',
  b'p': lambda r: b'%d\n' % r.randrange(4),
  b'g': lambda r: b'1\n',
  b'c': lambda r: r.choice(
    [
      b'posix\nsystem\n',
      b'collections\nOrderedDict\n',
      b'torch\nFloatStorage\n',
      b'torch._utils\n_rebuild_tensor_v2\n',
      b'torch\nSize\n',
      b'\xff\n\n',
    ]
  ),
  b'i': lambda r: b'posix\nsystem\n',
  b'P': lambda r: b'0\n',
  b'\x80': lambda r: r.randbytes(1),
  b'\x95': lambda r: r.randbytes(8),
  b'\x82': lambda r: r.randbytes(1),
  b'\x83': lambda r: r.randbytes(2),
  b'\x84': lambda r: r.randbytes(4),
}
SINGLE = [
  bytes([c])
  for c in b'(012]}).NQRabdelostu\x81\x85\x86\x87\x88\x89'
  b'\x8f\x90\x91\x92\x93\x94\x97\x98'
]


class _Runs:
  """Pickles into a call of `function`, the way that exploits do."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def as_zip(path, data, storage=DATA, **members):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in (
      {'data.pkl': data, 'data/0': storage} | members
    ).items():
      archive.writestr(f'x/{name}', content)


def as_legacy(path, data, storage=DATA, keys=('0',)):
  path.write_bytes(
    b''.join(
      [
        *(
          pickle.dumps(x, 2)
          for x in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})
        ),
        data,
        pickle.dumps(list(keys), 2),
        struct.pack('<q', len(storage) // 4),
        storage,
      ]
    )
  )


def in_either(rng, path, data, **options):
  rng.choice([as_zip, as_legacy])(path, data, **options)


def text(key):
  return b'X' + struct.pack('<I', len(key.encode())) + key.encode()


def beside(value, within=False):
  """A state_dict of W, and the pickle of a value beside it or in it."""
  model = pickling.dumps({'w': W}, 'state_dict')[2:-1]
  entry = text('rest') + value + b's'
  return (
    b'\x80\x02'
    + (model[:-1] + entry + b's' if within else model + entry)
    + b'.'
  )


def operations(rng, path):
  """A random sequence of operations, most of them with a fitting argument."""
  out = [b'\x80\x02', *(b'}', b'(', b'N', b')') * rng.randrange(9)]
  for _ in range(rng.choice([5, 50, 2000])):
    code = rng.choice([*SINGLE, *ARGUMENTS])
    out.append(code + (ARGUMENTS[code](rng) if code in ARGUMENTS else b''))
  in_either(rng, path, b''.join([*out, b'.']))


def damaged(rng, data):
  """The same bytes with some flipped, cut out, doubled or moved."""
  data = bytearray(data)
  for _ in range(rng.randrange(1, 6)):
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + rng.choice([1, 4, 100]))
    kind = rng.randrange(4)
    if kind == 0:
      data[a:b] = rng.randbytes(b - a)
    elif kind == 1:
      data[a:b] = b''
    elif kind == 2:
      data[a:a] = data[a:b]
    else:
      data[a:b] = rng.choice([b'\xff', b'\0', b'\x7f']) * (b - a)
    data = data or bytearray(b'x')
  return bytes(data)


def damaged_file(rng, path):
  in_either(rng, path, beside(pickle.dumps({'epoch': 3, 'x': [1.5]}, 2)[2:-1]))
  path.write_bytes(damaged(rng, path.read_bytes()))


def damaged_pickle(rng, path):
  in_either(rng, path, damaged(rng, beside(b'N', rng.random() < 0.5)))


def damaged_directory(rng, path):
  """Lies in what zip files hold about themselves, wide fields among them."""
  if rng.random() < 0.5:
    as_zip(path, beside(b'N'))
  else:
    pth.write(path, {'w': stored(np.ones((3, 4), np.float32))})
  data = path.read_bytes()
  place = rng.choice(
    [m.start() for m in re.finditer(rb'PK(\x01\x02|\x03\x04|\x05\x06)', data)]
  ) + rng.randrange(4, 46)
  size = rng.choice([1, 2, 4])
  lie = rng.choice([b'\xff' * size, b'\0' * size, rng.randbytes(size)])
  data = data[:place] + lie + data[place + size :]
  if rng.random() < 0.4:  # An end of 64 bits that holds anything.
    at = data.rindex(b'PK\5\6') if b'PK\5\6' in data else len(data)
    wide = struct.pack(
      '<4sQ2H2L4Q',
      b'PK\6\6',
      44,
      45,
      45,
      0,
      0,
      *(rng.choice([0, 1, 3, 2**31, 2**62, 2**64 - 1]) for _ in range(4)),
    )
    data = (
      data[:at]
      + wide
      + struct.pack('<4sLQL', b'PK\6\7', 0, rng.choice([at, 0, 2**63]), 1)
      + data[at:]
    )
  path.write_bytes(data)


def exploit(rng, path):
  """A call of code, somewhere; the tensor beside it is read all the same."""
  touch = f'touch {path.parent / "ran"}'
  code = f'open({str(path.parent / "ran")!r}, "w").close()'
  value = rng.choice(
    [
      _Runs(os.system, touch),
      _Runs(exec, code),
      _Runs(eval, code),
      _Runs(subprocess.call, ['sh', '-c', touch]),
      _Runs(os.popen, touch),
    ]
  )
  for _ in range(rng.randrange(5)):
    value = rng.choice([[value], (1, value), {'k': value}, {'k': 1, 2: value}])
  if rng.random() < 0.5:
    data = pickle.dumps({'state_dict': value, 'x': 1}, rng.randrange(6))
    in_either(rng, path, data)
    return
  in_either(rng, path, beside(pickle.dumps(value, 2)[2:-1], rng.random() < 0.5))


def bomb(rng, path):
  """Few bytes that ask for much time or memory."""
  n = rng.choice([30, 60, 1000, 20_000])
  doubled = b')' + b'q\0h\0\x86' * n
  nested = b')' + b'\x85' * n
  huge = rng.choice([b'\xff\xff\xff\x7f', b'\0\0\0\x40'])
  value = rng.choice(
    [
      doubled,
      nested,
      b'}' + doubled + b'Ns',
      b'}' + nested + b'Ns',
      b']' + b'q\0h\0h\0\x86' * min(n, 10**4),
      b']q\0h\0a',
      b'}q\0h\0h\0s',
      b'}q\0' + text('a') + b'h\0s',
      b'Nr' + huge,
      b'\x8b' + huge + b'x',
      b'X' + huge + b'x',
      b'B' + huge + b'x',
      b'\x8d' + huge * 2 + b'x',
      b'\x8e' + huge * 2,
      b'\x96' + huge * 2,
      b'\x95' + b'\xff' * 8 + b'N',
      b'\x8b' + struct.pack('<i', n) + b'\x7f' * n,
      b'I' + b'9' * n + b'\n',
      b'L' + b'9' * n + b'L\n',
      b'F' + b'9' * n + b'\n',
      b'V' + b'x' * n + b'\n',
      b'(' * n + b'N',
      b'}' * n,
      b'(' + b'}' * n + b't',
      b'c' + b'x' * n + b'\n\n',
      b'(' + b'K\1' * n + b'tq\1' + b'ctorch\nSize\nh\1\x85R0' * 999 + b'N',
      b'}q\1'
      + b''.join(
        b'\x8a\x0a' + ((2**61 - 1) * i).to_bytes(10, 'little') + b'Ns'
        for i in range(n)
      ),
      b'\x82\1',
      b'Q',
      b'\x97\x98',
    ]
  )
  data = rng.choice(
    [
      beside(value, rng.random() < 0.5),
      value + b'.',
      b'}' + text('state_dict') + value + b's.',
    ]
  )
  in_either(rng, path, data)


def odd_tensor(rng, path):
  """Offsets, shapes, strides and counts that do not fit the storage."""
  size = lambda: rng.choice([0, 1, 2, 3, 12, 13, 2**31, 2**40, 2**55, 2**62])
  axes = rng.choice([0, 1, 2, 3, 32, 40])
  tensor = Tensor(
    Storage(F32, rng.choice(['0', '0', '1']), rng.choice([12, 12, size()])),
    rng.choice([0, size()]),
    tuple(size() for _ in range(axes)),
    tuple(rng.choice([0, 1, size()]) for _ in range(axes)),
  )
  in_either(rng, path, pickling.dumps({'w': tensor}, 'state_dict'))


def shared_storages(rng, path):
  """Many names or members for the same bytes."""
  names = {f'w{i}': W for i in range(rng.choice([10, 300]))}
  as_zip(path, pickling.dumps(names, 'state_dict'))
  if rng.random() < 0.5:
    data = pickling.dumps(
      {f'w{i}': W._replace(storage=Storage(F32, str(i), 12)) for i in range(9)},
      'state_dict',
    )
    as_zip(path, data, **{f'data/{i}': DATA for i in range(9)})
    with zipfile.ZipFile(path) as archive:
      first = archive.getinfo('x/data/0').header_offset
    whole = bytearray(path.read_bytes())  # All point at the first.
    for found in re.finditer(rb'PK\x01\x02.{42}x/data/\d', bytes(whole), re.S):
      whole[found.start() + 42 : found.start() + 46] = struct.pack('<I', first)
    path.write_bytes(whole)


def official_names(rng, path):
  """NVIDIA's names, with shapes and layers that no model has."""
  shapes = {
    name: [rng.choice([0, 1, 2, 3, 64, 1152]) for _ in range(rng.randrange(5))]
    for name in [
      'x_embedder.proj.weight',
      'pos_embed',
      'y_embedder.y_proj.fc1.weight',
      'final_layer.linear.weight',
      'encoder.stages.0.op_list.0.main.conv1.conv.weight',
      *(
        f'blocks.{rng.choice([0, 1, 999, 10**900, -1])}.{kind}'
        for kind in ('attn.qkv.weight', 'mlp.inverted_conv.conv.bias')
      ),
    ]
    if rng.random() < 0.8
  }
  small = {k: s for k, s in shapes.items() if np.prod(s, dtype=float) < 10**6}
  pth.write(
    path,
    {
      k: stored(np.zeros(s, np.float32))
      for k, s in (small or {'\x1b': [2]}).items()
    },
  )


KINDS = [
  operations,
  operations,
  damaged_file,
  damaged_file,
  damaged_pickle,
  damaged_pickle,
  damaged_directory,
  exploit,
  exploit,
  bomb,
  bomb,
  bomb,
  odd_tensor,
  shared_storages,
  official_names,
]


def attempt(path, ema=False):
  """The arrays of a file, or None where it is refused in one sentence."""
  try:
    return {k: t.read() for k, t in pth.read(path, ema=ema).items()}
  except UserError as e:
    said = str(e).replace(str(path), '')
    assert said.isprintable() and len(said) < 4000, said
    return None


def test_a_hostile_file_loads_or_is_one_sentence(
  hostile, special, memory, tmp_path
):
  for i, rng in enumerate(hostile.cases(15, 150)):
    folder = tmp_path / str(i)
    folder.mkdir()
    path, make = folder / 'x.pth', rng.choice([*KINDS, special])
    print(make.__name__)
    make(rng, path)
    got, grown = memory(attempt, path, rng.random() < 0.1)
    assert grown < 200 * 2**20 + 8 * (path.is_file() and path.stat().st_size)
    if make is exploit and got:
      np.testing.assert_array_equal(got['w'], VALUES, strict=True)
    convert(path)
    assert not (folder / 'ran').exists()


def convert(path):
  with contextlib.suppress(UserError):
    exchange.open_source(str(path))
