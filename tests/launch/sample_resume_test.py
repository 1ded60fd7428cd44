"""A sampling job that is killed repeatedly has the same result."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def start(argv):
  return subprocess.Popen(
    [sys.executable, '-m', 'sana_jax.launch.cli', 'sample', *map(str, argv)],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def kill_after(argv, out, pictures):
  """Kills the job after that many more pictures."""
  before = len(list(out.glob('0*.png')))
  with start(argv) as process:
    deadline = time.monotonic() + 600  # The machine may be loaded.
    while len(list(out.glob('0*.png'))) < before + pictures:
      assert process.poll() is None, process.stderr.read()
      assert time.monotonic() < deadline
      time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    return process.stderr.read()


def names_of(out):
  """Names of the pictures; fails if one is damaged."""
  paths = sorted(out.glob('0*.png'))
  for path in paths:
    with Image.open(path) as image:
      image.load()
  return [path.name for path in paths]


BAD = (
  r'{"prompt": "\ud83d cat"}',
  '[' * 5000,
  '{"prompt": 3}',
  '{"prompt": "a", "seed": 1e999}',
  '{"prompt": "a", "height": -32}',
  r'{"prompt": "a", "negative_prompt": "\udc00"}',
  '{"prompt": "a"',
  '{"prompt": "a", "num_images": 2147483648}',
  '{"prompt": "\\u0000"}',
  '\udcff',
)


def check(tmp_path, model, count, bad, kills, *more):
  """Checks a job with `bad` invalid lines that is killed repeatedly."""
  prompts, lines = (
    tmp_path / 'prompts.jsonl',
    [json.dumps({'prompt': f'a red circle {i}'}) for i in range(count)],
  )
  for i, line in zip(sorted(random.sample(range(count), bad)), BAD):
    lines[i] = line
  prompts.write_bytes('\n'.join(lines).encode('utf-8', 'surrogateescape'))
  numbers = [i for i, line in enumerate(lines) if line not in BAD]
  argv = [
    '--model',
    model,
    '--prompts',
    prompts,
    '--batch-size',
    8,
    '--max-bad-fraction',
    0.2,
    *more,
    '--out',
  ]
  out, err = tmp_path / 'killed', ''
  for _ in range(kills):
    err += kill_after(
      [*argv, out], out, random.randint(1, len(numbers) // (kills + 1))
    )
  for folder in (out, tmp_path / 'whole'):
    with start([*argv, folder]) as process:
      err += (last := process.stderr.read())
      assert process.wait() == 0, last
  names = [f'{i:05d}-0-a-red-circle-{i}.png' for i in numbers]
  rows = [
    json.loads(line)
    for line in (out / 'results.jsonl').read_text().splitlines()
  ]
  assert [row['file'] for row in rows] == names
  rows = [
    json.loads(line)
    for line in (out / 'skipped.jsonl').read_text().splitlines()
  ]
  assert [row['line'] - 1 for row in rows] == sorted(
    {*range(count)} - {*numbers}
  )
  # Reported once in each folder, counted at each end.
  assert len(re.findall(rf'{re.escape(str(prompts))}, line \d+: ', err)) == (
    2 * bad
  )
  assert err.count(f'{bad} of {count:,}') == 2
  read = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}
  assert names_of(out) == names
  assert read(out) == read(tmp_path / 'whole')


@pytest.mark.long
def test_a_killed_job_makes_every_picture_once(tmp_path, tiny_sana):
  check(tmp_path, tiny_sana, 40, 4, 2, '--steps', 2)


@pytest.mark.slow
def test_twenty_kills_change_no_byte_of_a_job_with_bad_lines(tmp_path):
  check(tmp_path, 'shapes', 300, 10, 20, '--steps', 1)


@pytest.mark.slow
def test_a_thousand_prompts_survive_three_kills(tmp_path):
  check(tmp_path, 'shapes', 1000, 10, 3)
