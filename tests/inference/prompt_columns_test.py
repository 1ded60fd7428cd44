"""Columns of prompt files: the same in every format; unknown ones ignored."""

import json
import logging

import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import jobs
from sana_jax.inference.jobs import Job

pytestmark = pytest.mark.fast

PLAIN = Job('')
FORMATS = ['.jsonl', '.csv', '.parquet']


def written(folder, suffix, rows):
  path = folder / f'prompts{suffix}'
  if suffix == '.parquet':
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  elif suffix == '.jsonl':
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  else:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([str(row.get(n, '')) for n in names] for row in rows)]
    path.write_text('\n'.join(map(','.join, lines)))
  return str(path)


def read(folder, suffix, rows, default=PLAIN):
  got, problems = jobs.read(written(folder, suffix, rows), default)
  assert not problems
  return [vars(job) | {'line': None} for job in got]


ROW = {
  'prompt': 'a cat',
  'steps': 7,
  'guidance_scale': 3,
  'sampler': 'FlowMatchEulerDiscreteScheduler',
  'aspect_ratio': '16:9',
  'scorer': 'shapes',
  'id': 42,
  'file': 'the cat.webp',
}


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_line_has_settings_of_its_own_in_every_format(suffix, tmp_path):
  default = Job('', height=32, width=32, scorer='mine:best')
  first, second = read(tmp_path, suffix, [ROW, {'prompt': 'a dog'}], default)
  expected = ROW | {'sampler': 'euler', 'id': '42', 'height': None}
  assert {key: first[key] for key in expected} == expected
  assert second == vars(default) | {'prompt': 'a dog', 'line': None}


@pytest.mark.parametrize('suffix', FORMATS)
def test_unknown_columns_cause_one_warning_in_every_format(
  suffix, tmp_path, caplog
):
  plain = [{'prompt': 'a'}, {'prompt': 'b'}, {'prompt': 'c'}]
  rows = [row | {'sead': '3', 'topic': 'pets'} for row in plain]
  with caplog.at_level(logging.WARNING, 'absl'):
    assert read(tmp_path, suffix, rows) == read(tmp_path, suffix, plain)
  (record,) = caplog.records
  _, counted, names, *_ = record.args
  assert counted.startswith('2 ')
  assert names == "'sead' (did you mean seed?), 'topic'"


def test_a_warning_names_some_of_many_unknown_columns(tmp_path, caplog):
  rows = [{'prompt': 'a', f'{i}{"x" * 5000}\x1b': i} for i in range(99)]
  with caplog.at_level(logging.WARNING, 'absl'):
    assert len(read(tmp_path, '.jsonl', rows)) == 99
  (record,) = caplog.records
  assert len(record.getMessage()) < 3000 and '\x1b' not in record.getMessage()
  assert record.args[3] == ' and more'


@pytest.mark.parametrize('suffix', FORMATS)
def test_invalid_values_are_reported_together(suffix, tmp_path):
  wrong = {
    'steps': 0,
    'guidance_scale': -1,
    'sampler': 'ddim',
    'aspect_ratio': '9:1',
    'file': '../x',
  }
  rows = [{'prompt': 'a', **dict.fromkeys(wrong)}, {'prompt': 'b', **wrong}]
  if suffix == '.csv':
    rows[0] |= dict.fromkeys(wrong, '')
  got, (problem,) = jobs.read(written(tmp_path, suffix, rows), Job(''))
  assert [job.prompt for job in got] == ['a']
  assert problem.line == (3 if suffix == '.csv' else 2)
  with pytest.raises(UserError) as error:
    jobs.parse(rows[1], Job(''))
  assert error.value.key == 'steps'
  assert all(key in str(error.value) for key in wrong)


def test_a_ratio_takes_the_place_of_a_size_but_not_beside_one():
  default = Job('', height=8, width=8)
  job = jobs.parse({'prompt': 'a', 'aspect_ratio': '2:1'}, default)
  assert (job.height, job.width) == (None, None)
  with pytest.raises(UserError) as error:
    jobs.parse({'prompt': 'a', 'aspect_ratio': '2:1', 'width': 8}, default)
  assert error.value.key == 'aspect_ratio'


@pytest.mark.parametrize(
  'given, count, names',
  [
    ({}, 2, ['00006-0-a-cat.png', '00006-1-a-cat.png']),
    ({'id': '000'}, 1, ['000.png']),
    (
      {'id': 'Füchsin हिन्दी'},
      2,
      ['Füchsin हिन्दी-0.png', 'Füchsin हिन्दी-1.png'],
    ),
    ({'file': 'my cat.jpg', 'id': 'x'}, 1, ['my cat.jpg']),
    ({'file': 'cat'}, 1, ['cat.png']),
    ({'file': 'cat.webp'}, 2, ['cat-0.webp', 'cat-1.webp']),
  ],
)
def test_an_id_or_a_file_names_the_pictures(given, count, names):
  default = Job('', num_images=count, line=7)
  job = jobs.parse({'prompt': 'a cat', **given}, default)
  assert [job.picture(k, 'png') for k in range(count)] == names
  assert jobs.unique([job], 'png') == ([job], [])


@pytest.mark.parametrize(
  'one, two',
  [
    (Job('a', id='cat'), Job('b', id='cat')),
    (Job('a', id='cat'), Job('b', id='CAT')),
    (Job('a', id='\u00fc'), Job('b', id='u\u0308')),
    (Job('a', file='cat.png'), Job('b', file='cat.jpg')),
    (Job('a', id='cat-1'), Job('b', id='cat', num_images=2)),
  ],
)
def test_a_line_with_the_name_of_an_earlier_one_is_skipped(one, two):
  lines = [Job('c', line=2), vars(one) | {'line': 3}, vars(two) | {'line': 9}]
  lines[1:] = [Job(**line) for line in lines[1:]]
  kept, (problem,) = jobs.unique([*lines, Job('d', id='other')], 'png')
  assert [job.prompt for job in kept] == ['c', 'a', 'd']
  assert problem.line == 9 and ' line 3' in problem.reason
