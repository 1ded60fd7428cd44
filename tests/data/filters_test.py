import numpy as np
import pytest

from sana_jax.data.filters import filtered, reasons_to_drop, Subset

pytestmark = pytest.mark.fast

SIZES = np.int32([[100, 100], [50, 200], [0, 0], [300, 100]])
SCORES = np.float32([25, 21.9, 22, np.nan])


class Known:
  """Metadata without images."""

  def __init__(self, fail=False):
    self._fail = fail

  def __len__(self):
    return 4

  def __getitem__(self, index):
    return {'index': index}

  def sizes(self):
    assert not self._fail
    return SIZES

  def scores(self):
    assert not self._fail
    return SCORES


@pytest.mark.parametrize(
  'limits, left',
  [
    (dict(min_score=22.0), [0, 2, 3]),
    (dict(min_size_px=100), [0, 2, 3]),
    (dict(min_size_px=51), [0, 2, 3]),
    (dict(min_size_px=50), [0, 1, 2, 3]),
    (dict(max_aspect_ratio=3.0), [0, 2, 3]),
    (dict(max_aspect_ratio=2.9), [0, 2]),
    (dict(min_score=25.0, max_aspect_ratio=2.0), [0]),
  ],
)
def test_values_at_a_limit_and_unknown_values_are_kept(limits, left):
  source = filtered(Known(), **limits)
  assert [source[i]['index'] for i in range(len(source))] == left
  np.testing.assert_array_equal(source.sizes(), SIZES[left])
  np.testing.assert_array_equal(source.scores(), SCORES[left])


def test_metadata_are_only_read_with_limits():
  source = Known(fail=True)
  assert filtered(source) is source
  assert reasons_to_drop(None, None) == {}


def test_a_subset_of_a_subset_is_one_of_the_source():
  source = Subset(Subset(Known(), [3, 1, 0]), [2, 0])
  assert [source[i]['index'] for i in range(2)] == [0, 3]
