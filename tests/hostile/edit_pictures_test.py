"""Hostile images, masks and control images: read, or one sentence."""

import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import editing, hints
from sana_jax.launch import cli

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'HSV', 'I;16')
SIZES = ((16, 24), (24, 16), (1, 1), (1, 999), (3000, 2), (160, 240))


def a_picture(rng):
  """Bytes of an intact picture of some size, mode and format."""
  height, width = rng.choice(SIZES)
  mode = rng.choice(MODES)
  image = Image.new(mode, (width, height), rng.choice([0, 1]))
  name = rng.choice(['PNG', 'TIFF', 'GIF', 'BMP', 'JPEG', 'WEBP'])
  data = io.BytesIO()
  try:
    image.save(data, name)
  except (OSError, ValueError):  # The format lacks the mode.
    data = io.BytesIO()
    image.convert('RGB').save(data, name)
  return data.getvalue()


def declared(height, width):
  """A PNG of a few bytes that declares a size."""
  data = bytearray(a_png(np.zeros((4, 4, 3), np.uint8)))
  data[16:24] = struct.pack('>II', width, height)
  data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  return bytes(data)


def a_png(pixels):
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'PNG')
  return data.getvalue()


def put(rng, special, path):
  """A picture, a damaged one, or what is none, at a path."""
  data = a_picture(rng)
  kind = rng.randrange(6)
  if kind == 0:
    special(rng, path)
    return
  if kind == 1:
    data = data[: rng.randrange(len(data))]
  elif kind == 2:
    data = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
      data[rng.randrange(len(data))] = rng.randrange(256)
  elif kind == 3:
    data = rng.choice(
      [
        *(declared(*size) for size in ((2**15, 2**15), (0, 9), (2**31, 2))),
        *(
          b'',
          b'%!PS\n(x) show\n',
          b'GIF89a',
          b'\x89PNG\r\n\x1a\n' + b'\0' * 99,
        ),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
      ]
    )
  path.write_bytes(data)


def refused(function, *args):
  """Whether the arguments are refused, by a short printable sentence."""
  try:
    function(*args)
  except UserError as error:
    assert str(error).isprintable() and len(str(error)) < 1000
    assert error.key in ('image', 'mask', 'control_image', 'strength')
    return True
  return False


def test_a_hostile_picture_is_read_or_is_one_sentence(
  hostile, special, memory, tmp_path
):
  for i, rng in enumerate(hostile.cases(40, 1500)):
    folder = tmp_path / str(i)
    folder.mkdir()
    given = {key: folder / f'{key}.png' for key in ('image', 'mask')}
    for path in given.values():
      put(rng, special, path)
    _, grown = memory(refused, editing.opened, given)
    assert grown < 100 * 2**20
    size = rng.choice([(16, 24), (32, 32)])
    refused(hints.pixels, given['image'], size, size)


@pytest.mark.parametrize(
  'value',
  [
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((4, 4), object),
    np.zeros((4, 4, 3), complex),
    np.full((4, 4, 3), np.nan),
    np.zeros((4, 4, 4), np.uint8),
    {'file': '/etc/hostname'},
    {'file': 3, 'sha256': 'x'},
    [[1, 2], [3]],
    'a\0b',
    'x' * 5000,
    b'bytes',
    7,
    object(),
  ],
  ids=lambda x: str(x)[:20],
)
def test_values_that_are_no_picture_are_refused(value):
  assert refused(editing.opened, {'image': value})
  image = np.zeros((4, 4, 3), np.uint8)
  assert refused(editing.opened, {'image': image, 'mask': value})
  assert refused(hints.pixels, value, (4, 4), (4, 4))


@pytest.mark.long
def test_lines_with_hostile_pictures_stop_no_other_line(
  hostile, special, tmp_path, capsys
):
  """Nor is any of them read that is not beside the prompt file by its name."""
  (tmp_path / 'good.png').write_bytes(a_png(np.zeros((16, 16, 3), np.uint8)))
  (tmp_path / 'mask.png').write_bytes(a_png(np.full((16, 16), 255, np.uint8)))
  for i, rng in enumerate(hostile.cases(1, 12)):
    lines = [{'prompt': 'a', 'image': 'good.png', 'mask': 'mask.png'}]
    for k in range(20):
      path = tmp_path / f'{i}-{k}.png'
      put(rng, special, path)
      lines.append(
        rng.choice(
          [
            {'prompt': 'a', 'image': path.name},
            {'prompt': 'a', 'image': 'good.png', 'mask': path.name},
            {'prompt': 'a', 'control_image': path.name},
            {'prompt': 'a', 'image': rng.choice([3, [], {}, '\x1b', 'a\nb'])},
            {'prompt': 'a', 'image': 'good.png', 'mask': rng.choice([3, {}])},
          ]
        )
      )
    # What is drawn costs time, and is not what is tested.
    lines = [line | {'height': 16, 'width': 16} for line in lines]
    prompts = tmp_path / f'{i}.jsonl'
    prompts.write_text('\n'.join(map(json.dumps, lines)))
    argv = ['sample', '--model', GOLDEN, '--prompts', prompts, '--steps', 1]
    argv += ['--out', tmp_path / f'out-{i}', '--max-bad-fraction', 1]
    with hostile.bounded(120):
      assert cli.main([*map(str, argv), '--cpu-devices', '1']) == 0
    _, err = capsys.readouterr()
    assert 'Traceback' not in err
    made = [*(tmp_path / f'out-{i}').glob('00000-*.png')]
    assert len(made) == 1
