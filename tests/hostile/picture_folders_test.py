"""Hostile folders of pictures stop no job, and files beside them stay."""

import io
import json
import os
import tarfile

import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import images
from sana_jax.inference.gallery import Gallery, Picture

SIZE = 8


def pixels(i):
  return np.random.default_rng(i).integers(
    0, 256, (SIZE, SIZE, 3), dtype=np.uint8
  )


def fill(folder, pictures, shard_size):
  with Gallery(folder, pictures, shard_size=shard_size) as album:
    for picture in album.missing(decoded=64):
      album.add([picture], pixels(picture.about['seed'])[None])
  return album


def lines_of_others(rng, names):
  """Something to append to results.jsonl."""
  name = rng.choice(names)
  about = {'file': name, 'prompt': 'a', 'seed': 1}
  return rng.choice(
    [
      b'[1]\n',
      b'3\n',
      b'null\n',
      b'"x"\n',
      b'\xff\xfe\n',
      b'{"file": "000',
      b'[' * 100_000 + b'\n',
      b'9' * 5000 + b'\n',
      b'\0' * 5000,
      *(
        json.dumps(about | change).encode() + b'\n'
        for change in (
          {'file': [name]},
          {'file': {}},
          {'file': None},
          {'file': 3},
          {'file': '../canary'},
          {'file': '../../c'},
          {'file': 'results.jsonl'},
          {'file': str(rng.random()) + '/../canary'},
          {'file': '/etc/passwd'},
          {'file': '..'},
          {'file': 'a\0b'},
          {'prompt': 3},
          {'seed': 'x'},
          {'seed': [1]},
          {'seed': True},
          {'seed': None},
          {'prompt': ['a']},
        )
      ),
    ]
  )


def harm(rng, path, canary):
  """Damages a file so that it can be noticed, or puts another in its place."""
  data = path.read_bytes()
  path.unlink()
  kind = rng.choice(['cut', 'empty', 'zeros', 'fifo', 'link', 'gone', 'other'])
  if kind == 'fifo':
    os.mkfifo(path)
  elif kind == 'link':
    path.symlink_to(canary)
  elif kind != 'gone':
    path.write_bytes(
      {
        'cut': data[: rng.randrange(len(data) - 1)],
        'empty': b'',
        'zeros': bytes(len(data)),
        'other': b'%!PS\n(x) show\n' * 9,
      }[kind]
    )


def test_a_damaged_folder_is_completed_and_nothing_else_touched(
  hostile, tmp_path
):
  pictures = [
    Picture(f'{i:05d}-0-a.png', {'prompt': f'a {i}', 'seed': i})
    for i in range(7)
  ]
  canary = tmp_path / 'canary'
  canary.write_bytes(b'mine')
  for case, rng in enumerate(hostile.cases(10, 200)):
    shard_size = rng.choice([0, 0, 3])
    folder = tmp_path / f'out-{case}'
    fill(folder, pictures, shard_size)
    made = sorted(p for p in folder.iterdir() if p.name != 'results.jsonl')
    for path in rng.sample(made, rng.randint(0, len(made))):
      harm(rng, path, canary)
    with (folder / 'results.jsonl').open('ab') as file:
      for _ in range(rng.randint(0, 5)):
        file.write(lines_of_others(rng, [p.file for p in pictures]))
    album = fill(folder, pictures, shard_size)
    for picture in pictures:
      np.testing.assert_array_equal(
        np.asarray(album.open(picture)), pixels(picture.about['seed'])
      )
    lines = (folder / 'results.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
      {'file': p.file, **p.about} for p in pictures
    ]
    assert canary.read_bytes() == b'mine'
    assert {p.name for p in folder.iterdir()} == {
      'results.jsonl',
      *(p.name for p in made),
    }


@pytest.mark.parametrize(
  'name, shard_size',
  [
    ('results.jsonl', 0),
    ('.parts', 3),
    ('shard-000000.tar', 3),
    ('00000-0-a.png', 0),
  ],
)
def test_a_folder_or_link_in_the_place_of_a_file_is_one_sentence(
  hostile, name, shard_size, tmp_path
):
  picture = Picture('00000-0-a.png', {'prompt': 'a', 'seed': 0})
  elsewhere, folder = tmp_path / 'elsewhere', tmp_path / 'out'
  elsewhere.mkdir()
  folder.mkdir()
  if name == '.parts':
    (folder / name).symlink_to(elsewhere)
  else:
    (folder / name).mkdir()
  with hostile.bounded(), pytest.raises(UserError, match=name):
    fill(folder, [picture], shard_size)
  assert not list(elsewhere.iterdir())


def test_a_list_that_is_a_fifo_is_refused_and_not_waited_for(hostile, tmp_path):
  os.mkfifo(tmp_path / 'results.jsonl')
  with hostile.bounded(), pytest.raises(UserError) as error:
    Gallery(tmp_path, [Picture('0.png', {'prompt': 'a'})])
  assert error.value.key == '--out'
  assert error.value.value == f'{tmp_path}/results.jsonl'


def test_a_shard_of_links_and_sparse_members_gives_nothing(tmp_path):
  picture = Picture('00000-0-a.png', {'prompt': 'a', 'seed': 0})
  shard, canary = tmp_path / 'shard-000000.tar', tmp_path / 'canary'
  canary.write_bytes(b'mine')
  for kind in (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
  ):
    with tarfile.open(shard, 'w') as tar:
      info = tarfile.TarInfo(picture.file)
      info.type, info.linkname = kind, str(canary)
      tar.addfile(info, io.BytesIO())
    (tmp_path / 'results.jsonl').write_text(
      json.dumps({'file': picture.file, **picture.about}) + '\n'
    )
    album = fill(tmp_path, [picture], 3)
    np.testing.assert_array_equal(np.asarray(album.open(picture)), pixels(0))
  assert canary.read_bytes() == b'mine'


def test_a_picture_of_too_many_pixels_is_not_decoded():
  data = bytearray(images.encode(np.zeros((4, 4, 3), np.uint8), '.png'))
  import struct
  import zlib

  data[16:24] = struct.pack('>II', 2**14, 2**14)
  data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  with pytest.raises(ValueError, match='decompression bomb'):
    images.decode(bytes(data), '.png')
  with pytest.raises(ValueError):  # Of no other format than its name says.
    images.decode(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', '.png')
