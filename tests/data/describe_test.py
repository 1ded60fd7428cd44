import numpy as np
import pytest
from written import encoded, sample, tar

from sana_jax.data.describe import description, histogram, spread
from sana_jax.data.sources import open_source

pytestmark = pytest.mark.fast


def test_a_source_is_described_in_plain_text(tmp_path):
  (tmp_path / 'a.tar').write_bytes(
    tar(
      *sample('0', 'a cat', height=100, width=100),
      *sample('1', 'a small dog', height=600, width=300),
      *sample('2', 'x', height=100, width=110),
      ('3.png', b'no image'),
      ('3.txt', 'x'),
      ('4.png', encoded()),
      ('5.png', encoded(height=70, width=70)),
      (
        '5.json',
        (
          '{"captions": {"prompt": "a", "long": "a b c d"},'
          ' "scores": {"prompt": 21, "long": 30}}'
        ),
      ),
    )
  )
  source = open_source(
    'webdataset', path=tmp_path, size=8, cache=None, max_bad_fraction=0.5
  )
  lines = list(description(source, 100))
  assert lines[:3] == [
    '5 records',
    '1 skipped',
    f'  {tmp_path}/a.tar: 4: no .txt or .json',
  ]
  assert lines[3:6] == [
    'shorter side, px',
    '       64 to 128  ' + '#' * 40 + ' 3',
    '      128 to 256  ' + ' ' * 40 + ' 0',
  ]
  assert '1 have an image whose size cannot be read' in lines
  assert 'CLIP scores of 1: 21.0 to 21.0, median 21.0' in lines
  assert any(
    line.startswith('5 records read in ') and line.endswith(', 1 bad')
    for line in lines
  )
  assert (
    f'  {tmp_path}/a.tar: 3: it is not an image of a supported format' in lines
  )
  assert (
    'captions of 1 to 3 words, median 1.5; by name: prompt 4, long 1' in lines
  )
  assert lines[-3:] == ['  a cat', '  a small dog', '  x']


def test_text_of_a_source_is_escaped_and_truncated(tmp_path):
  names = ', '.join(f'"{i}\\u001b[2J{"n" * 999}": "a"' for i in range(99))
  (tmp_path / 'a.tar').write_bytes(
    tar(
      *sample('0', 'a \x1b[2Jcat\r\n\x9b' + 'x' * 9999),
      ('1\x1b[2J\n' + 'y' * 90 + '.png', b'no image'),
      ('1.txt', 'x'),
      ('5.png', encoded()),
      ('5.json', f'{{"captions": {{{names}}}}}'),
    )
  )
  source = open_source(
    'webdataset', path=tmp_path, size=8, cache=None, max_bad_fraction=0.9
  )
  lines = list(description(source, 100))
  assert all(line.isprintable() and len(line) < 500 for line in lines), lines
  assert '  a \\x1b[2Jcat\\r\\n\\x9b' + 'x' * 58 in lines
  assert any(line.endswith(' more') for line in lines if 'by name' in line)


@pytest.mark.parametrize(
  'values, edges, lines',
  [
    ([1, 2, 2], (1, 2), ['1 to 2 1', '2 or more 2']),
    ([0.5, 3], (1, 2), ['below 1 1', '1 to 2 0', '2 or more 1']),
  ],
)
def test_a_value_at_an_edge_is_above_it(values, edges, lines):
  got = [
    ' '.join(line.replace('#', ' ').split())
    for line in histogram(np.asarray(values), edges)
  ]
  assert got == lines


@pytest.mark.parametrize(
  'total, count, expected',
  [(10, 3, [0, 4, 9]), (3, 10, [0, 1, 2]), (1, 1, [0])],
)
def test_described_records_are_evenly_spaced(total, count, expected):
  assert spread(total, count).tolist() == expected
