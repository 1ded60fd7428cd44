"""A workdir whose files are damaged: its run resumes to the same bits, or ends
with one sentence that names the file. Nothing that is whole is lost.
"""

import itertools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pytest

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.training import checkpoint_files, pictures
from sana_jax.training.dataset_check import Records

# TensorStore goes on reading after the first damaged array, and then finds
# orbax's event loop closed.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

BOUND_SECONDS = 10  # Of one damaged workdir.
# What a run writes again or goes on writing; what it needs is in checkpoints/.
REWRITTEN = (
  'config.json',
  'records.json',
  'run_id',
  'metrics.jsonl',
  'loss.png',
  'model/',
  'pictures/',
)
STATE_FILES = ('config.json', 'records.json', 'run_id', 'metrics.jsonl')
PICTURES = (
  'loss.png',
  'pictures/step_000004.png',
  'model/model.npz',
  'profile/trace',
)
FOLDERS = ('pictures', 'model', 'profile', 'checkpoints', 'checkpoints/4')
ODD_NAMES = (
  '²',
  '1٣',
  '99999999999',
  '9' * 200,
  '007',
  '-1',
  '4 ',
  '.part',
  'damaged_4',
  '5',
  '6',
  '99',
)


def damages(content):
  """Functions that put something else at a path, by what it is."""
  middle = len(content) // 2
  written = {
    'empty': b'',
    'cut': content[:middle],
    'a broken byte': content[:middle] + b'\xff' + content[middle + 1 :],
    'a flipped bit': content[:middle]
    + bytes(x ^ 4 for x in content[middle : middle + 1])
    + content[middle + 1 :],
    'nested': b'[' * 10**5,
    'another type': b'[1, "two", null]\n',
    'nested objects': b'{"a": ' * 900 + b'1' + b'}' * 900,
    'another object': b'{"step": "x", "config": [], "count": {}}\n',
    'a huge integer': b'{"step": %s}' % (b'1' * 5000),
    'half a character': b'{"task": "\\ud83d"}',
  }
  return {
    name: lambda path, data=data: path.write_bytes(data)
    for name, data in written.items()
  } | {
    'a folder': pathlib.Path.mkdir,
    'a fifo': os.mkfifo,
    'a dangling link': lambda path: path.symlink_to(path.parent / 'nowhere'),
    'gone': lambda path: None,
  }


KINDS = list(damages(b''))
IN_PLACE = ('empty', 'a folder', 'a fifo', 'a dangling link')
# Files of a checkpoint are many, and all are treated alike.
FEW_KINDS = ('cut', 'a flipped bit', 'nested', 'a fifo')


class Run:
  """A toy run that was stopped after step 4 of 6."""

  def __init__(self, toy, folder):
    self.workdir, self._made = folder / 'run', folder / 'made'
    self._toy, self._cache = toy, folder / 'cache'
    self._task = toy.Toy(width=8)
    self._task.records = Records(256, 7)
    self.resume(4)
    shutil.copytree(self.workdir, self._made)
    (self._made / 'profile').mkdir()
    (self._made / 'profile/trace').write_bytes(b'a trace')
    self.whole = self.resume()

  def resume(self, steps=6):
    return self._toy.run(
      self.workdir,
      self._task,
      devices=jax.devices()[:1],
      mesh={'data': 1},
      num_steps=steps,
      checkpoint_every_steps=2,
      keep_checkpoints=9,
      pictures_every_steps=2,
      checkpoint_cache=str(self._cache),
    )

  def harm(self, name, kind):
    """The workdir as it was after step 4, with one thing damaged."""
    shutil.rmtree(self.workdir)
    shutil.rmtree(self._cache, ignore_errors=True)
    shutil.copytree(self._made, self.workdir)
    path, content = self.workdir / name, b''
    if path.is_dir():
      shutil.rmtree(path)
    elif path.exists():
      content = path.read_bytes()
      path.unlink()
    damages(content)[kind](path)

  def names(self):
    """Files of the workdir after step 4."""
    return sorted(
      str(p.relative_to(self._made))
      for p in self._made.rglob('*')
      if p.is_file()
    )

  def lost(self, harmed):
    """Whole files of which no file has the content any longer."""
    there = {p.read_bytes() for p in self.workdir.rglob('*') if p.is_file()}
    return [
      name
      for name in self.names()
      if not name.startswith((*REWRITTEN, harmed))
      and (self._made / name).read_bytes() not in there
    ]

  def check(self, name, kind):
    """Resumes a damaged run; returns how that ended."""
    print(f'hostile: {name} is {kind}')
    self.harm(name, kind)
    began, said = time.monotonic(), 'resumed'
    try:
      state = self.resume()
    except UserError as error:
      said = str(error)
      assert len(said.splitlines()) == 1 and len(said) < 3000
      assert name.partition('/')[0] in said
    else:
      jax.tree.map(np.testing.assert_array_equal, state, self.whole)
      assert (
        checkpoint_files.steps(epath.Path(self.workdir) / 'checkpoints')[-1]
        == 6
      )
    assert time.monotonic() - began < BOUND_SECONDS
    assert not self.lost(name)
    return said


@pytest.fixture(scope='module')
def run(toy, tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    # Drawing takes most of the time of so short a run.
    patch.setattr(pictures, 'loss_curve', lambda *_: b'a curve')
    yield Run(toy, tmp_path_factory.mktemp('state'))


def cases(run):
  """(name, kind) of all damages."""
  inside = [name for name in run.names() if name.startswith('checkpoints/4/')]
  return [
    *itertools.product(STATE_FILES, KINDS),
    *itertools.product(PICTURES, ('cut', *IN_PLACE)),
    *itertools.product(inside, FEW_KINDS),
    *itertools.product(FOLDERS, (*IN_PLACE, 'gone')),
    *itertools.product([f'checkpoints/{name}' for name in ODD_NAMES], IN_PLACE),
  ]


@pytest.mark.long
def test_a_damaged_workdir_resumes_to_the_same_bits_or_says_why(run, hostile):
  if hostile.every:
    for name, kind in cases(run):
      with hostile.bounded():
        run.check(name, kind)
    return
  for rng in hostile.cases(3, 0):
    run.check(*rng.choice(cases(run)))


@pytest.mark.long
def test_what_every_checkpoint_knows_stops_no_run(run):
  for name, kind in (
    ('config.json', 'empty'),
    ('metrics.jsonl', 'nested'),
    ('checkpoints/²', 'a folder'),
  ):
    assert run.check(name, kind) == 'resumed'


CHILD = """
import itertools, pathlib, sys
from sana_jax import files
for i in itertools.count():
  files.write_text(sys.argv[1], chr(97 + i % 26) * 300000)
"""
CLAIM = """
import itertools, sys
import ml_collections
from sana_jax.training import run_config
for i in itertools.count():
  run_config.claim(sys.argv[1], ml_collections.ConfigDict(
    {'num_steps': i, 'init_from': chr(97 + i % 26) * 300000}))
"""


def killed(code, argument, written, rng):
  """Starts it, and kills it some time after it has first written."""
  child = subprocess.Popen([sys.executable, '-B', '-c', code, str(argument)])
  try:
    while not written.exists():
      assert child.poll() is None
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))
  finally:
    child.kill()
    child.wait()


def test_a_writer_that_is_killed_leaves_the_old_or_the_new(tmp_path, hostile):
  path = tmp_path / 'x'
  for rng in hostile.cases(2, 40):
    path.unlink(missing_ok=True)
    killed(CHILD, path, path, rng)
    text = path.read_text()
    assert len(text) == 300000 and len(set(text)) == 1
    files.write_text(path, 'whole')
    assert [p.name for p in tmp_path.iterdir()] == ['x']  # No leftovers.


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_claims_a_workdir_leaves_its_config(
  tmp_path,
):
  path = tmp_path / 'config.json'
  for seed in range(5):
    killed(CLAIM, tmp_path, path, random.Random(seed))
    text = files.read_json(path)['init_from']
    assert len(text) == 300000 and len(set(text)) == 1
