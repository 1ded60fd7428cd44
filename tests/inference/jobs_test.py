"""Prompt files: every format gives the same jobs; bad lines are reported."""

import json

import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import jobs
from sana_jax.inference.jobs import Job

pytestmark = pytest.mark.fast

DEFAULT = Job('', negative_prompt='blurry', seed=7, num_images=2)
ROWS = [
  {'prompt': 'a cat', 'seed': 3},
  {'prompt': 'eine Füchsin, 狐狸 🦊', 'height': 768, 'width': 1344},
  {'prompt': 'a "quoted", thing', 'negative_prompt': 'dogs', 'num_images': 1},
]
JOBS = [
  Job('a cat', 'blurry', 3, None, None, 2, 1),
  Job('eine Füchsin, 狐狸 🦊', 'blurry', 7, 768, 1344, 2, 2),
  Job('a "quoted", thing', 'dogs', 7, None, None, 1, 3),
]
KEYS = ('prompt', 'seed', 'height', 'width', 'negative_prompt', 'num_images')


def as_csv(rows):
  quoted = lambda x: '"' + str(x).replace('"', '""') + '"'
  return '\n'.join(
    [
      ','.join(KEYS),
      *(','.join(quoted(row.get(k, '')) for k in KEYS) for row in rows),
    ]
  )


def as_jsonl(rows):
  return '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)


def written(tmp_path, suffix, content):
  path = tmp_path / f'prompts{suffix}'
  if suffix == '.parquet':
    parquet.write_table(
      pyarrow.Table.from_pylist(
        [{k: row.get(k) for k in KEYS} for row in content]
      ),
      path,
    )
  else:
    path.write_text(content, encoding='utf-8')
  return str(path)


@pytest.mark.parametrize(
  'suffix, content, shift',
  [
    ('.jsonl', as_jsonl(ROWS), 0),
    ('.csv', as_csv(ROWS), 1),
    ('.parquet', ROWS, 0),
  ],
)
def test_every_format_gives_the_same_jobs(tmp_path, suffix, content, shift):
  got, problems = jobs.read(written(tmp_path, suffix, content), DEFAULT)
  assert problems == []
  assert [job.line - shift for job in got] == [1, 2, 3]
  assert [vars(job) | {'line': 0} for job in got] == [
    vars(job) | {'line': 0} for job in JOBS
  ]


def test_a_text_file_has_a_prompt_a_line(tmp_path):
  path = written(tmp_path, '.txt', '\ufeffa cat\n\n  a dog \r\n')
  got, problems = jobs.read(path, DEFAULT)
  assert [(job.prompt, job.line) for job in got] == [('a cat', 1), ('a dog', 3)]
  assert problems == []


@pytest.mark.parametrize(
  'line, facts',
  [
    ('{"prompt": "a"', ['JSON']),
    ('[1]', ['JSON']),
    ('{"prompt": " "}', ['prompt']),
    ('{}', ['prompt']),
    ('{"prompt": 3}', ['prompt', '3']),
    ('{"prompt": "a", "seed": -1}', ['seed', '-1']),
    ('{"prompt": "a", "seed": 1.5}', ['seed', '1.5']),
    ('{"prompt": "a", "seed": true}', ['seed', 'True']),
    ('{"prompt": "a", "seed": "x"}', ['seed', "'x'"]),
    ('{"prompt": "a", "seed": 1e400}', ['seed', 'inf']),
    ('{"prompt": "a", "height": 99999}', ['height', '99999', '16384']),
    ('[' * 10_000, ['JSON']),
  ],
)
def test_a_bad_line_is_reported_by_its_number_and_skipped(
  tmp_path, line, facts
):
  path = written(tmp_path, '.jsonl', f'{{"prompt": "a"}}\n{line}\n')
  got, problems = jobs.read(path, DEFAULT)
  assert [job.line for job in got] == [1]
  assert len(problems) == 1
  assert problems[0].line == 2
  assert all(fact in problems[0].reason for fact in facts), problems


@pytest.mark.parametrize(
  'suffix, content, key, allowed',
  [
    ('.txt', ' \n', '--prompts', 'one prompt a line'),
    ('.jsonl', '{}', '--prompts', 'one prompt a line'),
    ('.csv', 'text,seed\na,1\n', 'prompt', ('prompt',)),
    ('.csv', '', 'prompt', ('prompt',)),
    ('.parquet', [], 'prompt', ('prompt',)),
    (
      '.yaml',
      'prompt: a',
      '--prompts',
      ('.txt', '.jsonl', '.csv', '.parquet'),
    ),
  ],
)
def test_a_file_that_cannot_be_used_raises(
  tmp_path, suffix, content, key, allowed
):
  with pytest.raises(UserError) as error:
    jobs.read(written(tmp_path, suffix, content), DEFAULT)
  assert (error.value.key, error.value.allowed) == (key, allowed)


def test_damaged_files_raise(tmp_path):
  path = tmp_path / 'p.parquet'
  path.write_bytes(b'PAR1 no table')
  with pytest.raises(UserError) as error:
    jobs.read(str(path), DEFAULT)
  assert (error.value.key, error.value.value) == ('--prompts', str(path))
  path = tmp_path / 'p.csv'
  path.write_bytes(b'prompt\n\xff\n')
  with pytest.raises(UserError, match='line 2: prompt .* 0xff'):
    jobs.read(str(path), DEFAULT)
  path = str(tmp_path / 'none.txt')
  with pytest.raises(UserError) as error:
    jobs.read(path, DEFAULT)
  assert (error.value.key, error.value.value) == ('--prompts', path)


def test_files_of_lines_are_relative_to_the_prompt_file(tmp_path):
  row = {'prompt': 'a', 'image': 'a.png', 'control_image': '/b.png'}
  (tmp_path / 'x.jsonl').write_text(json.dumps(row | {'mask': 'c/d.png'}))
  ((job,), _) = jobs.read(str(tmp_path / 'x.jsonl'), DEFAULT)
  assert job.image == f'{tmp_path}/a.png' and job.mask == f'{tmp_path}/c/d.png'
  assert job.control_image == '/b.png'
