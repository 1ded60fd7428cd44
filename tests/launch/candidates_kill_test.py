"""A choice among many candidates that is killed: same picks, none twice."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODULE = """
def redness(prompts, images):
  return images[..., 0].mean(axis=(1, 2))

def blueness(prompts, images):
  return images[..., 2].mean(axis=(1, 2))
"""
PROMPTS = 'a cat', 'a dog', 'a red star', 'a blue moon'
MOST_GROWTH = 48 * 2**10  # KiB; all candidates would be more.


def start(model, out, prompts, count):
  argv = ['sample', '--model', model, '--steps', 1, '--batch-size', 16]
  argv += [x for p in PROMPTS[:prompts] for x in ('--prompt', p)]
  argv += ['--candidates', count, '--num-images', 2, '--out', out]
  argv += [
    x for n in ('redness', 'blueness') for x in ('--scorer', f'mine:{n}')
  ]
  return subprocess.Popen(
    [sys.executable, '-m', 'sana_jax.launch.cli', *map(str, argv)],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': f'{ROOT}:{out.parent}'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def lines(out, name='scores.jsonl'):
  path = out / name
  text = path.read_text() if path.exists() else ''
  return [json.loads(x) for x in text.splitlines()[: text.count('\n')]]


def wait(process, out, scored):
  deadline = time.monotonic() + 900  # The machine may be loaded.
  while len(lines(out)) < scored:
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.02)


def memory(process):
  """KiB of a process."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  return int(status.split('VmRSS:')[1].split()[0])


@pytest.mark.parametrize(
  'prompts, count',
  [
    pytest.param(2, 48, marks=pytest.mark.long),
    pytest.param(4, 512, marks=pytest.mark.slow),
  ],
)
def test_killed_three_times_it_picks_the_same_and_draws_none_twice(
  tiny_sana, tmp_path, prompts, count
):
  (tmp_path / 'mine.py').write_text(MODULE)
  whole, cut, total = tmp_path / 'whole', tmp_path / 'cut', prompts * count
  with start(tiny_sana, whole, prompts, count) as process:
    wait(process, whole, total // 4)
    before = memory(process)
    wait(process, whole, total * 7 // 8)
    assert memory(process) - before < MOST_GROWTH
    assert process.wait() == 0
  for part in (1, 2, 3):
    with start(tiny_sana, cut, prompts, count) as process:
      wait(process, cut, total * part // 4 - random.randint(0, total // 8))
      os.kill(process.pid, signal.SIGKILL)
  with start(tiny_sana, cut, prompts, count) as process:
    assert process.wait() == 0
  drawn = [(x['key'], x['number']) for x in lines(cut)]
  assert len(drawn) == len(set(drawn)) == total
  assert lines(cut, 'results.jsonl') == lines(whole, 'results.jsonl')
  for path in whole.glob('0*.png'):
    assert (cut / path.name).read_bytes() == path.read_bytes()
  curve = json.loads((whole / 'candidates.json').read_text())
  assert curve['candidates'][-1] == count
  assert curve == json.loads((cut / 'candidates.json').read_text())
  for judge in ('mine:redness', 'mine:blueness'):
    mean = curve['judges'][judge]['mean']
    assert mean == sorted(mean)
