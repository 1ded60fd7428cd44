"""Pictures in memory: who gets them, and how long."""

import time

import pytest

from sana_jax.inference.album import Album
from sana_jax.inference.demo import File

pytestmark = pytest.mark.fast


def files(size=3, count=2):
  return [File(f'{k}.png', '', bytes([k]) * size) for k in range(count)]


def test_a_picture_is_found_by_its_path_only():
  album = Album()
  paths = album.add('me', files())
  assert [album.get(p) for p in paths] == [b'\0\0\0', b'\1\1\1']
  token = paths[0].partition('/')[0]
  assert len(token) == 43  # 32 random bytes.
  for path in (
    '',
    token,
    token + '/',
    token + '/2.png',
    '/0.png',
    'x/0.png',
    token + '/../0.png',
    token[:-1] + '/0.png',
  ):
    assert album.get(path) is None


def test_no_two_requests_share_a_folder():
  album = Album()
  tokens = {album.add('me', files())[0].partition('/')[0] for _ in range(99)}
  assert len(tokens) == 99


def test_the_oldest_pictures_are_dropped_first():
  album = Album(most_bytes=20)
  first, second, third = (album.add('me', files(4, 2))[0] for _ in range(3))
  assert album.get(first) is None
  assert album.get(second)
  assert album.get(third)


def test_the_newest_pictures_are_kept_even_if_they_are_large():
  album = Album(most_bytes=1)
  old = album.add('me', files())[0]
  new = album.add('me', files())[0]
  assert album.get(old) is None
  assert album.get(new)


def test_pictures_are_dropped_with_their_owner_and_with_age():
  album = Album(seconds=0.05)
  mine, other = album.add('me', files())[0], album.add('you', files())[0]
  album.drop('me')
  assert album.get(mine) is None
  assert album.get(other)
  time.sleep(0.06)
  assert album.get(other) is None
