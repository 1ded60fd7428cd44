"""A sampling job that is killed again and again ends as if it had not been."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def start(argv):
  return subprocess.Popen(
    [sys.executable, '-m', 'sana_jax.launch.cli', 'sample', *map(str, argv)],
    cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_after(argv, out, pictures):
  """SIGKILL when there are that many more pictures than at the start."""
  before = len(list(out.glob('0*.png')))
  with start(argv) as process:
    deadline = time.monotonic() + 120
    while len(list(out.glob('0*.png'))) < before + pictures:
      assert process.poll() is None, process.stderr.read()
      assert time.monotonic() < deadline
      time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)


def pixels(out):
  found = {}
  for path in sorted(out.glob('0*.png')):
    with Image.open(path) as image:
      found[path.name] = np.asarray(image).astype(int)
  return found


def check(tmp_path, model, count, kills, *more):
  """`count` prompts, killed at random; the pictures are those of one run."""
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('\n'.join(f'a red circle {i}' for i in range(count)))
  argv = ['--model', model, '--prompts', prompts, '--batch-size', 8, *more,
          '--out']
  out = tmp_path / 'killed'
  for _ in range(kills):
    kill_after([*argv, out], out, random.randint(1, count // (kills + 1)))
  with start([*argv, out]) as process:
    assert process.wait() == 0, process.stderr.read()
  names = [f'{i:05d}-0-a-red-circle-{i}.png' for i in range(count)]
  got = pixels(out)
  assert list(got) == names  # All of them, none twice, each one whole.
  lines = (out / 'results.jsonl').read_text().splitlines()
  assert [line.split('"')[3] for line in lines] == names
  with start([*argv, tmp_path / 'whole']) as process:
    assert process.wait() == 0, process.stderr.read()
  for name, want in pixels(tmp_path / 'whole').items():
    assert np.abs(got[name] - want).max() <= 1  # Other batches round otherwise.


def test_a_killed_job_makes_every_picture_once(tmp_path, tiny_sana):
  check(tmp_path, tiny_sana, 40, 2, '--steps', 2)


def test_a_killed_choice_ends_as_if_it_had_not_been(tmp_path, tiny_sana):
  prompts, out = tmp_path / 'prompts.txt', tmp_path / 'killed'
  prompts.write_text('\n'.join(f'{n} {c} stars' for n in ('two', 'three')
                               for c in ('red', 'green', 'blue', 'yellow')))
  argv = ['--model', tiny_sana, '--prompts', prompts, '--batch-size', 6,
          '--steps', 2, '--candidates', 5, '--num-images', 2, '--scorer',
          'shapes', '--out']
  kill_after([*argv, out], out, random.randint(1, 7))
  for folder in (out, tmp_path / 'whole'):
    with start([*argv, folder]) as process:
      assert process.wait() == 0, process.stderr.read()
  made, want = (
    [json.loads(x) for x in (folder / 'results.jsonl').read_text().splitlines()]
    for folder in (out, tmp_path / 'whole'))
  assert [x['file'] for x in made] == list(pixels(out))
  assert [(x['file'], x['number']) for x in made] == [
    (x['file'], x['number']) for x in want]
  np.testing.assert_allclose(
    [x['score'] for x in made], [x['score'] for x in want], atol=.01)
  assert len({(x['prompt'], x['number']) for x in made}) == 16
  whole = pixels(tmp_path / 'whole')
  for name, got in pixels(out).items():
    assert np.abs(got - whole[name]).max() <= 1


@pytest.mark.slow
def test_a_thousand_prompts_survive_three_kills(tmp_path):
  check(tmp_path, 'shapes', 1000, 3)
