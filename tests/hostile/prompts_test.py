"""Hostile prompt files and picture folders stop no job and mislead none."""

import csv
import io
import json
import os
import pathlib
import re

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import images, jobs, skipped
from sana_jax.inference.gallery import Gallery, Picture, slug
from sana_jax.inference.jobs import Job
from sana_jax.printable import printable
from sana_jax.text import encode, tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FORMATS = ('.txt', '.jsonl', '.csv', '.parquet')
# Lone surrogates, noncharacters, byte order marks, bidirectional controls,
# combining bombs, joined emoji, control characters, separators of lines and
# paragraphs, NUL, astral characters, what is syntax in a format, long text.
PIECES = (
  'a cat',
  ' ',
  'ü',
  '狐狸',
  '\ud83d',
  '\udc31',
  '\udcff',
  '\udfff',
  '\ufffe',
  '\uffff',
  '\ufdd0',
  '\U0001fffe',
  '\U0010ffff',
  '\ufeff',
  '\u202e',
  '\u2066',
  '\u200f',
  'e' + '\u0301' * 300,
  '\u0e33' * 50,
  '👩‍👩‍👧‍👦',
  '🏳️‍🌈',
  '\u200b',
  '\xad',
  '\x00',
  '\x01',
  '\x07',
  '\x1b[2J',
  '\x1b]0;x\x07',
  '\x7f',
  '\x85',
  '\x9b',
  '\x0b',
  '\x0c',
  '\x1c',
  '\x1e',
  '\t',
  '\r',
  '\u2028',
  '\u2029',
  '\ue000',
  'ﷺ',
  'ß',
  'İ',
  '"',
  "'",
  ',',
  ';',
  '\\',
  '{}',
  '[',
  '../../etc/passwd',
  'CON',
  '/',
  '%s',
  '$(id)',
  '<script>',
  'x' * 5000,
  'word ' * 2000,
  'y' * 70_000,
)
# Not UTF-8: overlong, surrogates, beyond Unicode, cut, Latin-1, lone bytes.
BYTES = (
  b'\xc0\xaf',
  b'\xe0\x80\xaf',
  b'\xed\xa0\xbd\xed\xb0\xb1',
  b'\xf5\x80\x80\x80',
  b'\xf0\x9f\x90',
  b'caf\xe9',
  b'\x80',
  b'\xff',
)


def raw(text):
  return text.encode('utf-8', 'surrogatepass')


def is_usable(text):
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return bool(text.strip()) and '\0' not in text and len(text) <= 2**16


def write(path, prompts, rng):
  """A prompt file; a line's text may be bytes that are not UTF-8."""
  data = [p if isinstance(p, bytes) else raw(p) for p in prompts]
  if path.suffix == '.parquet':
    column = pyarrow.array(data, pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({'prompt': column}), path)
    return
  end = rng.choice([b'\n', b'\r\n'])
  lines = [rng.choice([b'', b'\xef\xbb\xbf'])]
  if path.suffix == '.csv':
    lines[0] += b'prompt' + end
    lines += [b'"' + d.replace(b'"', b'""') + b'"' + end for d in data]
  elif path.suffix == '.jsonl':
    lines += [
      b'{"prompt": "' + p + b'"}' + end
      if isinstance(p, bytes)
      else raw(json.dumps({'prompt': p}, ensure_ascii=rng.random() < 0.5)) + end
      for p in prompts
    ]
  else:
    lines += [d + end for d in data]
  path.write_bytes(b''.join(lines))


@pytest.fixture(scope='module', autouse=True)
def imported(tmp_path_factory):
  """Slow imports happen before the bound of a case begins."""
  path = tmp_path_factory.mktemp('first') / 'prompts.parquet'
  write(path, ['a cat'], None)
  assert len(jobs.read(str(path), Job(''))[0]) == 1


def drawn(rng):
  """Prompts of odd pieces, and the bytes of some that are not UTF-8."""
  prompts = [
    ''.join(rng.choices(PIECES, k=rng.randint(1, 4))) for _ in range(20)
  ]
  # Two halves that JSON would join.
  pair = '[\ud800-\udbff][\udc00-\udfff]'
  prompts = [re.sub(pair, '', p) or 'x' for p in prompts]
  return [rng.choice(BYTES) if rng.random() < 0.1 else p for p in prompts]


def expected(prompts, suffix):
  """Prompts that can be used, as the jobs have them."""
  texts = [p for p in prompts if isinstance(p, str)]
  if suffix == '.txt':
    texts = [t.removeprefix('\ufeff').strip() for t in texts]
    texts = [t for t in texts if '\r' not in t]
  # Byte order marks at the ends are no part of a prompt.
  texts = [t.strip().strip('\ufeff').strip() for t in texts]
  return [t for t in texts if is_usable(t)]


def test_odd_text_is_read_or_reported_in_every_format(hostile, tmp_path):
  for rng in hostile.cases(12, 120):
    for suffix in FORMATS:
      prompts = ['first', *drawn(rng), 'last']
      path = tmp_path / f'prompts{suffix}'
      write(path, prompts, rng)
      got, problems = jobs.read(str(path), Job(''))
      want = expected(prompts, suffix)
      assert [job.prompt for job in got] == want
      given = (
        len(prompts)
        if suffix != '.txt'
        else sum(
          bool(p.removeprefix('\ufeff').strip())
          for p in prompts
          if isinstance(p, str)
        )
        + sum(isinstance(p, bytes) for p in prompts)
      )
      assert len(got) + len(problems) == given
      for one in problems:
        assert one.reason == printable(one.reason)
        assert one.text == printable(one.text)
        assert len(one.text) < 200
      skipped.write(tmp_path / 'skipped.jsonl', problems)
      assert skipped.read(tmp_path / 'skipped.jsonl') == problems


@pytest.fixture(scope='module')
def words():
  return tokenizer.load(GOLDEN / 'tiny_sana' / 'tokenizer')


def test_odd_prompts_pass_tokenizer_metadata_list_and_sheet(
  hostile, tmp_path, words
):
  for case, rng in enumerate(hostile.cases(4, 40)):
    prompts = [p for p in expected(drawn(rng), '.parquet')]
    ids, _ = encode.tokenize(words, prompts)
    assert len(ids) == len(prompts)
    pictures = [
      Picture(
        f'{i:05d}-0-{slug(p)}.{rng.choice(["png", "webp"])}',
        {'prompt': p, 'negative_prompt': rng.choice(prompts)},
      )
      for i, p in enumerate(prompts)
    ]
    pixels = np.zeros((len(prompts), 8, 8, 3), np.uint8)
    folder = tmp_path / str(case)
    with Gallery(folder, pictures) as album:
      album.add(pictures, pixels)
    # Exif has 64 KiB; everything else is written.
    assert all('EXIF' in x or '.webp' in f for f, x in album.failed.items())
    made = [p for p in pictures if p.file not in album.failed]
    for picture in made:
      image = album.open(picture)
      if image.format == 'PNG':
        assert image.text == picture.about
    images.contact_sheet(list(pixels), prompts)
    again = Gallery(folder, pictures)
    assert [again.made(p) for p in made] == [p.about for p in made]
    assert {p.name for p in folder.iterdir()} == {
      'results.jsonl',
      *(p.file for p in made),
    }


def test_half_a_surrogate_pair_raises_a_user_error(words):
  for prompt in ('\ud83d cat', 'cat \udc31', '\udcff'):
    with pytest.raises(encode.TextError) as error:
      encode.tokenize(words, ['a dog', prompt])
    assert error.value.prompts == (prompt,)


def strange_file(kind, path):
  if kind == 'fifo':
    os.mkfifo(path)
  elif kind == 'device':
    path.symlink_to('/dev/zero')
  elif kind == 'folder':
    path.mkdir()
  elif kind in ('utf-16', 'utf-32'):
    path.write_text('prompt\na cat\n', encoding=kind)
  elif kind == 'pipe':
    path.symlink_to('/dev/stdin')
  else:  # Holes: a line without end, and more than anything should have.
    with path.open('wb') as file:
      file.truncate({'long line': 2**27, 'huge': 2**40}[kind])


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize(
  'kind', ['fifo', 'device', 'folder', 'utf-16', 'utf-32', 'long line', 'huge']
)
def test_what_is_no_prompt_file_is_one_sentence(
  hostile, kind, suffix, tmp_path
):
  path = tmp_path / f'prompts{suffix}'
  strange_file(kind, path)
  with hostile.bounded(), pytest.raises(UserError) as error:
    jobs.read(str(path), Job(''))
  assert str(path) in str(error.value)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  'path',
  [
    '-',
    '/dev/zero',
    '/dev/fd/0',
    'x' * 5000,
    'x' * 300 + '.txt',
    'a\0.txt',
    '',
  ],
)
def test_what_names_no_prompt_file_is_one_sentence(hostile, path):
  with hostile.bounded(), pytest.raises(UserError):
    jobs.read(path, Job(''))


VALUES = (
  '-1',
  '1.5',
  '1e999',
  '-0.5',
  'true',
  'null',
  '""',
  '"x"',
  '[]',
  '{}',
  '[1]',
  '2147483647',
  '2147483648',
  '9' * 4300,
  '9' * 4301,
  '-' + '9' * 99,
  '"' + '9' * 5000 + '"',
  'NaN',
  '-Infinity',
  '"NaN"',
  '1e-400',
  '"\\uff11"',
  '[' * 900 + ']' * 900,
  '[' * 90_000,
  '{"a":' * 900 + '1' + '}' * 900,
  '"\\ud800"',
  '"' + 'x' * 70_000 + '"',
  '"a\\u0000b"',
  '',
  '1' * 2**20,
)


def test_values_of_any_type_are_used_or_reported(hostile, tmp_path):
  path, keys = tmp_path / 'prompts.jsonl', (*jobs.KEYS, 'x' * 10**5)
  lines = [
    f'{{"prompt": "a", "{key}": {value}}}' for key in keys for value in VALUES
  ]
  for rng in hostile.cases(1, 10):
    rng.shuffle(lines)
    path.write_text('\n'.join(lines))
    got, problems = jobs.read(str(path), Job(''))
    assert sorted([x.line for x in (*got, *problems)]) == [
      *range(1, len(lines) + 1)
    ]
    for job in got:
      assert 0 <= job.seed < 2**31 and 1 <= job.num_images <= 10_000
      assert all(x is None or 1 <= x <= 2**14 for x in (job.height, job.width))
      assert job.steps is None or 1 <= job.steps <= 1000
      assert job.guidance_scale is None or 0 <= job.guidance_scale <= 1000
    assert max(len(str(x)) for x in problems) < 500


SIZE = 8


def pixels(i):
  return np.random.default_rng(i).integers(
    0, 256, (SIZE, SIZE, 3), dtype=np.uint8
  )


def test_an_open_quote_costs_no_line_behind_the_next_one(tmp_path):
  path = tmp_path / 'prompts.csv'
  out = io.StringIO()
  csv.writer(out).writerows([['prompt'], ['a cat']])
  path.write_text(out.getvalue() + '"a dog\n"a fox"\na cow\n')
  got, problems = jobs.read(str(path), Job(''))
  assert [job.prompt for job in got] == ['a cat', 'a cow']
  assert len(problems) == 1 and 'from line 3' in problems[0].reason
