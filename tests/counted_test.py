"""Counts in messages: one picture, two pictures, everywhere."""

import pathlib
import re

import pytest

from sana_jax.printable import counted

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parents[1]
NOUNS = (
  'pictures|images|lines|records|rows|prompts|examples|devices|files|tensors'
  '|steps|updates|samples|reads|hosts|processes|configs|entries|samples'
)
# A number and then a plural, in an f-string or a format.
PLURAL = re.compile(
  r'(?:\{(?!counted)[^{}]*\}|%d) (?:\w+ )?(?:' + NOUNS + r')\b(?!/)'
)
# Counts that are never 1 where the message is made.
REASONS = {
  ('launch/diagrams.py', '{row["images/chip"]} images'),  # A column's text.
  ('launch/sample.py', '{count:,} pictures'),  # More than the limit.
  ('launch/sample.py', '{made} pictures'),  # One has a line of its own.
  ('sana_jax/data/files.py', '{MOST:,} files'),
  ('sana_jax/data/folder.py', '{", ".join(SUFFIXES)} files'),
  ('sana_jax/data/pipeline.py', '{_ATTEMPTS} consecutive records'),
  ('sana_jax/inference/jobs.py', '{MOST_BAD:,} lines'),
  ('sana_jax/launching/job.py', '{machines.processes} hosts'),
  ('sana_jax/tools/parity/optim.py', '{_STEPS} steps'),
  ('sana_jax/weights/pth.py', '{len(tensors)} tensors'),
  ('sana_jax/weights/table.py', '{len(tensors):,} tensors'),
  ('sana_jax/weights/safetensors_files.py', '{len(fields)} tensors'),
  ('sana_jax/weights/weight_files.py', '{len(names)} files'),
}


def test_one_is_singular():
  assert counted(1, 'picture') == '1 picture'
  assert counted(0, 'picture') == '0 pictures'
  assert counted(1234, 'line was', 'lines were') == '1,234 lines were'
  assert counted(1, 'line was', 'lines were') == '1 line was'
  assert counted(1.0, 'image') == '1 image'
  assert counted(0.5, 'image') == '0.5 images'


def found():
  for folder in ('sana_jax', 'launch'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      text = path.read_text()
      for match in PLURAL.finditer(text):
        yield str(path.relative_to(ROOT)), match[0]


def test_every_count_of_a_message_may_be_one():
  assert set(found()) == REASONS


@pytest.mark.parametrize(
  'text', ['{n} bad lines', '%d pictures are', '{n} rows']
)
def test_the_search_sees_a_plural(text):
  assert PLURAL.search(text)
  assert not PLURAL.search('{counted(n, "row")} in rows')
