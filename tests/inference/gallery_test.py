"""A folder of pictures is completed, never spoilt, however it was left."""

import json
import tarfile

import numpy as np
from PIL import Image
import pytest

from sana_jax.errors import UserError
from sana_jax.inference.gallery import Gallery, Picture

pytestmark = pytest.mark.fast

SIZE = 8


def pixels(i):
  return np.random.default_rng(i).integers(
    0, 256, (SIZE, SIZE, 3), dtype=np.uint8
  )


def wanted(count=10, suffix='png', **about):
  return [
    Picture(f'{i:03d}.{suffix}', {'prompt': f'ein Bär {i}', **about})
    for i in range(count)
  ]


def fill(folder, pictures, upto=None, **options):
  """Makes what is missing, three at a time; returns what that was."""
  with Gallery(folder, pictures, **options) as album:
    missing = album.missing()[:upto]
    for i in range(0, len(missing), 3):
      batch = missing[i : i + 3]
      album.add(batch, np.stack([pixels(int(p.file[:3])) for p in batch]))
  return [p.file for p in missing]


def listed(folder, name='results.jsonl'):
  return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_pictures_and_list_are_whole_and_in_order(tmp_path):
  pictures = wanted()
  assert fill(tmp_path, pictures) == [p.file for p in pictures]
  for i, picture in enumerate(pictures):
    with Image.open(tmp_path / picture.file) as image:
      np.testing.assert_array_equal(np.asarray(image), pixels(i))
      assert image.text == picture.about
  assert listed(tmp_path) == [{'file': p.file, **p.about} for p in pictures]
  assert fill(tmp_path, pictures) == []


@pytest.mark.parametrize('suffix', ['jpg', 'webp'])
def test_other_formats_have_their_settings(tmp_path, suffix):
  (picture,) = wanted(1, suffix)
  smooth = np.full((32, 32, 3), (200, 30, 60), np.uint8)
  with Gallery(tmp_path, [picture]) as album:
    album.add([picture], smooth[None])
  with Image.open(tmp_path / picture.file) as image:
    assert json.loads(image.getexif()[0x010E]) == picture.about
    assert np.abs(np.asarray(image).astype(int) - smooth).max() <= 6


def test_a_second_run_makes_what_is_missing(tmp_path):
  pictures = wanted()
  assert len(fill(tmp_path, pictures, upto=4)) == 4
  (tmp_path / '001.png').unlink()
  # As a killed run leaves it: a file not listed, a line cut short.
  (tmp_path / '007.png').write_bytes(b'half')
  with (tmp_path / 'results.jsonl').open('ab') as file:
    file.write(b'{"file": "008.png", "pro')
  assert fill(tmp_path, pictures) == [
    '001.png',
    *(f'{i:03d}.png' for i in range(4, 10)),
  ]
  assert [line['file'] for line in listed(tmp_path)] == [
    p.file for p in pictures
  ]
  for i, picture in enumerate(pictures):
    with Image.open(tmp_path / picture.file) as image:
      np.testing.assert_array_equal(np.asarray(image), pixels(i))


def test_pictures_made_otherwise_are_not_mixed(tmp_path):
  fill(tmp_path, wanted(seed=1))
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(UserError, match='000.png') as error:
    fill(tmp_path, wanted(seed=2))
  assert (error.value.key, error.value.value) == ('seed', 2)
  assert error.value.allowed == [1]
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_more_pictures_may_follow(tmp_path):
  fill(tmp_path, wanted(4))
  assert fill(tmp_path, wanted(6)) == ['004.png', '005.png']
  assert len(listed(tmp_path)) == 6
  assert fill(tmp_path, wanted(2)) == []
  assert len(listed(tmp_path)) == 6  # What is there stays listed.


def test_shards_hold_every_picture_once_with_its_metadata(tmp_path):
  pictures = wanted()
  options = dict(shard_size=4)
  fill(tmp_path, pictures, **options)
  shards = sorted(p.name for p in tmp_path.glob('*.tar'))
  assert shards == [f'shard-{i:06d}.tar' for i in range(3)]
  seen = []
  for shard in shards:
    with tarfile.open(tmp_path / shard) as tar:
      names = tar.getnames()
      for image, words in zip(names[::2], names[1::2]):
        i = int(image[:3])
        got = np.asarray(Image.open(tar.extractfile(image)))
        np.testing.assert_array_equal(got, pixels(i))
        assert words == f'{i:03d}.json'
        assert json.load(tar.extractfile(words)) == pictures[i].about
        seen.append(i)
  assert seen == list(range(10))
  assert not (tmp_path / '.parts').exists()
  assert fill(tmp_path, pictures, **options) == []
  album = Gallery(tmp_path, pictures, **options)
  np.testing.assert_array_equal(np.asarray(album.open(pictures[5])), pixels(5))


def test_a_stopped_run_leaves_no_shard_that_is_not_whole(tmp_path):
  pictures = wanted()
  with (
    pytest.raises(KeyboardInterrupt),
    Gallery(tmp_path, pictures, shard_size=4) as album,
  ):
    album.add(pictures[:6], np.stack([pixels(i) for i in range(6)]))
    album._jobs[-1].result()
    raise KeyboardInterrupt
  assert not list(tmp_path.glob('*.tar'))
  assert len(fill(tmp_path, pictures, shard_size=4)) == 4
  assert len(list(tmp_path.glob('*.tar'))) == 3


def test_a_failure_of_the_disk_reaches_the_caller(tmp_path):
  pictures = wanted()
  with (
    pytest.raises(FileNotFoundError),
    Gallery(tmp_path / 'out', pictures) as album,
  ):
    (tmp_path / 'out' / 'results.jsonl').rename(tmp_path / 'gone')
    (tmp_path / 'out').rmdir()
    album.add(pictures, np.zeros((10, SIZE, SIZE, 3), np.uint8))
