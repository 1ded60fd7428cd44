"""Plots of bars and errors, by the pixels in their colours."""

import io

import numpy as np
from PIL import Image
import pytest

from sana_jax.tools import plots
from sana_jax.tools.report import Bars, joined, opened

pytestmark = pytest.mark.fast


def pixels(png, colour):
  """Rows and columns of the pixels that are nearly of a colour."""
  image = np.asarray(Image.open(io.BytesIO(png)).convert('RGB'), int)
  wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return np.nonzero(np.abs(image - wanted).max(axis=-1) < 12)


def lengths(png, colour):
  """Pixels of each bar of a colour, from the top."""
  rows, columns = pixels(png, colour)
  edges = np.flatnonzero(np.diff(np.unique(rows)) > 1) + 1
  groups = np.split(np.unique(rows), edges)
  return [
    np.ptp(columns[np.isin(rows, group[len(group) // 2])]) for group in groups
  ]


def test_bars_are_as_long_as_their_values():
  groups = {'a': {'one': 1.0, 'two': 3.0}, 'b': {'one': 2.0}}
  png = plots.bars(Bars('title', 'seconds', groups))
  one, two = (lengths(png, colour) for colour in plots.COLOURS[:2])
  assert len(one) == 3 and len(two) == 2  # The last is the legend's.
  unit = two[0] / 3
  np.testing.assert_allclose(one[:2], [unit, 2 * unit], atol=2)


def test_errors_that_are_not_finite_are_left_out():
  rows = [('a', 1e-6, 1e-5), ('b', 0.0, 1e-5), ('c', float('inf'), 1e-5)]
  same = plots.errors(rows[:2])
  assert plots.errors(rows) == same
  assert len(pixels(same, plots.COLOURS[0])[0]) > 50


def test_a_result_and_pictures_stand_below_the_title():
  page = '# A page\n\nText.\n'
  assert opened(page, 'It is fast.', '', 'a.png') == (
    '# A page\n\nIt is fast.\n\n![A page](a.png)\n\nText.\n'
  )
  assert opened(page, '') == page


def test_parts_are_joined():
  assert [joined(list(x)) for x in ('a', 'ab', 'abc')] == [
    'a',
    'a and b',
    'a, b and c',
  ]
