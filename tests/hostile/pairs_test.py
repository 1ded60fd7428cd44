"""Hostile folders of pairs, of kohya and of lines: used, or one sentence."""

import contextlib
import json
import os

import numpy as np
from PIL import Image
import pytest

from sana_jax.data import pairs
from sana_jax.data.folder import FolderSource
from sana_jax.data.records import BadRecord
from sana_jax.errors import UserError

OUTSIDE = (
  *('../out.png', '/etc/passwd', '..', '.', 'a/../../out.png', './a.png'),
  *('a\0.png', 'gs://x/a.png', 'http://x/a.png', 'file:///etc/passwd', ''),
  *('a//b.png', '..\\out.png'),
)
ODD = (None, 3, [], {}, True, ['a.png'], ' ', 'x' * 70_000, '\x1b[2J', '\u202e')
LINES = (
  *(b'[1]', b'3', b'null', b'"x"', b'\xff\xfe', b'{"chosen": "a', b'\0' * 99),
  *(b'[' * 99_999, b'9' * 5000, b'{"chosen":' * 999, b'{}', b'\xef\xbb\xbf'),
)


@pytest.fixture
def folder(tmp_path):
  """A folder of two pictures, beside one that is not in it."""
  folder = tmp_path / 'pairs'
  folder.mkdir()
  image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
  for path in (folder / 'a.png', folder / 'b.png', tmp_path / 'out.png'):
    image.save(path)
  return folder


def refused(function, *args):
  with pytest.raises(UserError) as error:
    function(*args)
  assert str(error.value).isprintable() and len(str(error.value)) < 1000
  assert error.value.key == 'data.path'


def test_a_hostile_line_of_pairs_is_one_sentence(hostile, folder):
  good = {'chosen': 'a.png', 'rejected': 'b.png', 'prompt': 'a'}
  for rng in hostile.cases(20, 300):
    line = rng.choice(
      [
        rng.choice(LINES),
        *[good | {rng.choice([*good]): rng.choice(ODD[:7])}] * 2,
        *[good | {rng.choice(['chosen', 'rejected']): rng.choice(OUTSIDE)}] * 2,
      ]
    )
    line = line if isinstance(line, bytes) else json.dumps(line).encode()
    lines = [json.dumps(good).encode()] * 3
    lines.insert(rng.randrange(4), line)
    (folder / 'metadata.jsonl').write_bytes(b'\n'.join(lines))
    refused(pairs.read, str(folder))


def test_images_of_pairs_that_cannot_be_read_are_bad_records(folder):
  names = [
    'absent.png',
    'x' * 300,
    '\x1b[2J',
    'é\u202e.png',
    'fifo',
    'text.png',
  ]
  os.mkfifo(folder / 'fifo')
  (folder / 'text.png').write_text('no image')
  (folder / 'metadata.jsonl').write_text(
    '\n'.join(
      json.dumps({'chosen': name, 'rejected': 'b.png', 'prompt': 'a'})
      for name in names
    )
  )
  source = pairs.PairSource(folder, 8, cache='')
  assert not source.sizes()[::2].any() and source.sizes()[1::2].all()
  for i in range(0, len(source), 2):
    with pytest.raises(BadRecord):
      source[i]
    assert source[i + 1]['caption'] == 'a'


@pytest.mark.long
@pytest.mark.parametrize('kind', ['sparse', 'fifo', 'folder', 'dangling'])
def test_lines_in_no_regular_file_are_refused_at_once(hostile, folder, kind):
  path = folder / 'metadata.jsonl'
  if kind == 'fifo':
    os.mkfifo(path)
  elif kind == 'folder':
    path.mkdir()
  elif kind == 'dangling':
    path.symlink_to('absent')
  else:
    with path.open('wb') as file:
      file.truncate(2**40)
  with hostile.bounded():
    refused(pairs.read, str(folder))
    if kind == 'sparse':
      refused(FolderSource, folder, 8)


def test_kohyas_folders_of_odd_names_are_used_or_refused(hostile, folder):
  names = [
    *(b'1_\xff', b'\xff_dog', b'10_', b'_dog', b'0_dog', b'-1_dog', b'1.5_dog'),
    *(b'1e3_dog', '\u0663_dog'.encode(), b'000000001999999999_dog', b'dog'),
    *(b'9' * 200 + b'_dog', b'10001_dog', b' 3_dog', b'3 _dog', b'3_\n'),
  ]
  (folder / 'a.png').rename(folder / 'kept')
  (folder / 'b.png').unlink()
  for name in names:
    path = os.path.join(os.fsencode(folder), name)
    os.mkdir(path)
    image = os.path.join(path, b'a.png')
    os.link(folder / 'kept', image)
    with hostile.bounded():
      refused(lambda: FolderSource(folder, 8, kohya=True))
    os.unlink(image)
  for name in ('3_\x1b[2J', '03_sks  dog', '3_3_dog', '10000_é'):
    (folder / name).mkdir()
    os.link(folder / 'kept', folder / name / 'a.png')
  source = FolderSource(folder, 8, kohya=True)
  assert sorted(source.repeats()) == [3, 3, 3, 10_000]
  with contextlib.suppress(BadRecord):
    assert all(source[i]['caption'] for i in range(len(source)))
