"""Characters that some programs take for the end of a line, and marks."""

import json

import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.inference import existing, jobs
from sana_jax.inference.jobs import Job

pytestmark = pytest.mark.fast

# str.splitlines splits at each of these; files of lines do not.
BREAKS = ['\u2028', '\u2029', '\x85', '\x0b', '\x0c', '\x1c']
FORMATS = ['.txt', '.jsonl', '.csv', '.parquet']


def written(folder, suffix, prompts):
  path = folder / f'prompts{suffix}'
  match suffix:
    case '.parquet':
      table = pyarrow.table({'prompt': prompts})
      parquet.write_table(table, path)
      return str(path)
    case '.jsonl':
      lines = [json.dumps({'prompt': p}, ensure_ascii=False) for p in prompts]
    case '.csv':
      lines = ['prompt', *(f'"{p}"' for p in prompts)]
    case _:
      lines = prompts
  path.write_bytes(('\n'.join(lines) + '\n').encode())
  return str(path)


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('char', BREAKS)
def test_a_prompt_keeps_characters_that_look_like_line_ends(
  suffix, char, tmp_path
):
  prompts = [f'a{char}cat', 'a dog']
  got, problems = jobs.read(written(tmp_path, suffix, prompts), Job(''))
  assert [job.prompt for job in got] == prompts
  first = 2 if suffix == '.csv' else 1
  assert [job.line for job in got] == [first, first + 1]
  assert not problems


@pytest.mark.parametrize('suffix', FORMATS)
def test_later_line_numbers_are_those_of_an_editor(suffix, tmp_path):
  prompts = ['a\u2028cat', 'b\0', 'a dog']
  _, problems = jobs.read(written(tmp_path, suffix, prompts), Job(''))
  assert [p.line for p in problems] == [3 if suffix == '.csv' else 2]


def test_lists_of_pictures_keep_characters_that_look_like_line_ends(tmp_path):
  lines = [{'file': f'{i}.png', 'prompt': c} for i, c in enumerate(BREAKS)]
  path = tmp_path / 'results.jsonl'
  path.write_text(
    ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines),
    newline='\n',
  )
  assert list(existing.read_list(path)) == lines


@pytest.mark.parametrize('suffix', FORMATS)
def test_a_byte_order_mark_is_no_part_of_a_prompt(suffix, tmp_path):
  prompts = ['\ufeffa cat', '\ufeff a dog']
  got, _ = jobs.read(written(tmp_path, suffix, prompts), Job(''))
  assert [job.prompt for job in got] == ['a cat', 'a dog']
