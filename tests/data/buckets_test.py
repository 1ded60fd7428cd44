"""The published buckets, and the bucket of an image."""

import numpy as np
import pytest

from sana_jax.data import buckets

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('size', buckets.SIZES)
def test_a_table_has_forty_ratios_up_to_four(size):
  table = buckets.table(size)
  assert len(table) == 40 and list(table) == sorted(table)
  assert table[1.0] == (size, size)
  # The names are roughly the ratios: 0.28 stands for 1408 / 5184 = 0.272.
  for ratio, (height, width) in table.items():
    assert abs(height / width - ratio) <= 0.035 * ratio


def test_the_tables_are_the_published_ones():
  # NVlabs/Sana, diffusion/data/datasets/utils.py, a few of each.
  assert buckets.table(1024)[0.82] == (896, 1088)
  assert buckets.table(512)[0.6] == (384, 640)
  assert buckets.table(256)[0.26] == (128, 496)
  assert buckets.table(2048)[3.11] == (3584, 1152)
  assert buckets.table(4096)[4.0] == (8192, 2048)
  assert buckets.table(2880)[0.47] == (1920, 4096)


def test_sizes_fit_the_autoencoder():
  assert (
    sum(any(n % 32 for n in size) for size in buckets.table(256).values()) == 29
  )
  for size in buckets.SIZES:
    for height, width in buckets.table(size, 32).values():
      assert height % 32 == width % 32 == 0 and height and width


def test_other_sizes_are_scaled():
  small = buckets.table(64, 32)
  assert small[1.0] == (64, 64) and small[0.25] == (32, 128)
  assert min(map(min, buckets.table(16, 8).values())) == 8


def test_an_image_belongs_to_the_nearest_ratio():
  table = buckets.table(1024)
  sizes = np.random.default_rng().integers(1, 4000, (500, 2))
  found = buckets.nearest(sizes, table)
  keys = np.array(list(table))
  for (height, width), bucket in zip(sizes, found):
    distances = abs(height / width - keys)
    assert distances[bucket] == distances.min()


def test_ties_go_to_the_first_ratio():
  # 0.51 lies between 0.5 and 0.52; in doubles it is nearer to neither.
  table = {0.5: (1, 2), 0.75: (3, 4)}
  assert buckets.nearest(np.array([[5, 8]]), table).tolist() == [0]


def test_members_are_complete_disjoint_and_in_order():
  table = buckets.table(512)
  sizes = np.random.default_rng().integers(0, 900, (300, 2))
  sizes[:5] = 0  # Headers that could not be read.
  parts = buckets.members(sizes, table)
  known = np.flatnonzero(sizes.min(1) > 0)
  assert sorted(np.concatenate(parts).tolist()) == known.tolist()
  assert all((np.diff(part) > 0).all() for part in parts)
  found = buckets.nearest(sizes, table)
  for bucket, part in enumerate(parts):
    assert (found[part] == bucket).all()


@pytest.mark.parametrize('shape', [(40, 80), (80, 40), (31, 32), (200, 200)])
def test_an_image_is_scaled_to_cover_and_cropped_at_its_centre(shape):
  rows = np.linspace(0, 255, shape[0])[:, None]
  image = np.repeat(np.broadcast_to(rows, shape)[..., None], 3, -1)
  got = buckets.fit(image.astype(np.uint8), (32, 64))
  assert got.shape == (32, 64, 3)
  # A ramp remains one, around its middle.
  profile = got[:, 32, 0].astype(float)
  assert abs(profile.mean() - 127.5) <= 3
  seen = min(1.0, (32 / 64) * shape[1] / shape[0])
  assert np.ptp(profile) == pytest.approx(255 * seen, abs=12)
  assert buckets.fit(got, (32, 64)) is got
