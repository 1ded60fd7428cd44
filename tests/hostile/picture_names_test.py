"""Hostile names of pictures in prompt files leave no folder."""

import json

import pytest

from sana_jax.inference import jobs
from sana_jax.inference.jobs import Job

pytestmark = pytest.mark.fast

NAMES = (
  '../up',
  '/etc/passwd',
  'a/b',
  'a\\b',
  'C:a',
  '.hidden',
  '..',
  '-rf',
  '_',
  'results.jsonl',
  'contact_sheet',
  'CONTACT_SHEET-00000-of-00002.png',
  'NUL',
  '00003-0-a-cat',
  '00003-0.png',
  'com1.png',
  'a.b',
  'a.png.png',
  'cat.gif',
  'cat.PNG',
  '.png',
  'a\u202eb',
  'a\u200bb',
  'a\tb',
  'a\x1b[2J',
  '\u0301a',
  '🦊',
  'x' * 81,
  'ü' * 41,
  -1,
  1.5,
  True,
  [],
)


@pytest.mark.parametrize('name', NAMES, ids=repr)
@pytest.mark.parametrize('key', ['id', 'file'])
def test_a_hostile_name_of_a_picture_is_reported(key, name, tmp_path):
  path = tmp_path / 'prompts.jsonl'
  rows = [{'prompt': 'a'}, {'prompt': 'b', key: name}]
  path.write_text('\n'.join(map(json.dumps, rows)))
  got, (problem,) = jobs.read(str(path), Job(''))
  assert [job.line for job in got] == [1]
  assert problem.line == 2 and problem.reason.startswith(f'{key} ')
