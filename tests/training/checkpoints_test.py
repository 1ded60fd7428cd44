"""A saved state is restored on any mesh; a damaged one never is."""

import gc
import json
import logging
import os
import pathlib
import resource
import shutil
import sys
import time

from checkpointed import (
  arrays,
  assert_equal,
  CONFIG,
  files,
  flip,
  Run,
  truncate,
)
from etils import epath
import jax
import ml_collections
import orbax.checkpoint as ocp
import pytest

from sana_jax.errors import TransientError, UserError
from sana_jax.training import checkpoint_files
from sana_jax.training.checkpoints import Checkpoints

# Tensorstore keeps reading after the first damaged array, and then finds
# orbax's event loop closed.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(scope='module', autouse=True)
def little_to_collect():
  """Exempts what was there before from the collections below."""
  gc.collect()
  gc.freeze()
  yield
  gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_is_left():
  """Lets orbax's abandoned operations end here, where errors are ignored."""
  yield
  time.sleep(0.1)  # Until tensorstore's threads have read on.
  gc.collect()


def test_restore_without_checkpoints_returns_none(toy, tmp_path):
  assert Run(toy, tmp_path).restore() is None


@pytest.mark.long
def test_the_last_ones_are_kept_and_the_newest_comes_back(toy, tmp_path):
  run = Run(toy, tmp_path)
  states = run.save(1, 2, 3, 4)
  then = next(run.batches)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '3', '4']
  other = Run(toy, tmp_path)
  assert_equal(states[4], other.restore())
  assert_equal(then, next(other.batches))


def test_the_newest_step_is_the_largest_number_and_not_the_last_text(
  toy, tmp_path
):
  states = Run(toy, tmp_path).save(9, 10)
  assert checkpoint_files.steps(epath.Path(tmp_path)) == [9, 10]
  assert_equal(states[10], Run(toy, tmp_path).restore())


@pytest.mark.parametrize(
  'mesh, devices',
  [({'fsdp': 4}, 4), ({'data': 1}, 1), ({'fsdp': 2, 'tensor': 4}, 8)],
)
def test_a_run_resumes_on_another_mesh(toy, tmp_path, mesh, devices):
  states = Run(toy, tmp_path).save(1)
  other = Run(toy, tmp_path, mesh, devices)
  state = other.restore()
  assert_equal(states[1], state)
  assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
    lambda x: x.sharding, other.shapes
  )


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: [p.unlink() for p in arrays(folder)],
    lambda folder: [truncate(p) for p in arrays(folder)],
    lambda folder: [flip(p) for p in arrays(folder)],
    lambda folder: [p.unlink() for p in files(folder / 'data')],
    lambda folder: [truncate(p) for p in files(folder / 'data')],
    lambda folder: [p.unlink() for p in files(folder / 'about')],
    lambda folder: [p.unlink() for p in files(folder)],
  ],
  ids=[
    'deleted',
    'truncated',
    'flipped',
    'no data',
    'half data',
    'no about',
    'empty',
  ],
)
def test_a_damaged_checkpoint_is_never_chosen(toy, tmp_path, damage, caplog):
  run = Run(toy, tmp_path)
  states = run.save(1, 2)
  damage(tmp_path / '2')
  with caplog.at_level(logging.WARNING, 'absl'):
    state = run.restore()
  assert_equal(states[1], state)
  first = toy.Toy().batches(seed=0, batch_size=16, rows=range(16))
  next(first)
  assert_equal(next(first), next(run.batches))
  assert 'step 2' in caplog.text and 'step 1' in caplog.text
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', 'damaged_2']


@pytest.mark.long
def test_a_damaged_file_is_noticed_or_not_needed(toy, tmp_path):
  saved = tmp_path / 'saved'
  states = Run(toy, saved).save(1, 2)
  chosen = set()
  for path in files(saved / '2'):
    copy = tmp_path / path.relative_to(saved).as_posix().replace('/', '_')
    shutil.copytree(saved, copy)
    truncate(copy / path.relative_to(saved))
    state = Run(toy, copy).restore()
    step = 1 if (copy / 'damaged_2').exists() else 2
    assert_equal(states[step], state)
    chosen.add(step)
  assert chosen == {1, 2}


def test_a_digit_that_changed_in_the_data_is_noticed(toy, tmp_path):
  run = Run(toy, tmp_path)
  states = run.save(1, 2)
  path = next((tmp_path / '2/data').iterdir())
  text = path.read_text()
  changed = text.replace('"next_index": 2', '"next_index": 3')
  assert changed != text
  path.write_text(changed)
  assert_equal(states[1], run.restore())


def test_a_half_written_checkpoint_is_cleared_away(toy, tmp_path):
  states = Run(toy, tmp_path).save(1)
  half = tmp_path / '2.orbax-checkpoint-tmp'
  half.mkdir()
  (half / 'state').write_text('half')
  assert_equal(states[1], Run(toy, tmp_path).restore())


@pytest.mark.long
def test_other_names_are_no_checkpoints_and_stay(toy, tmp_path):
  states = Run(toy, tmp_path).save(1, 2)
  odd = ['²', '1٣', '99999999999', '9' * 200, '007', '-1', '3 ', '3.5', 'x']
  for name in odd:
    (tmp_path / name).mkdir()
  assert checkpoint_files.steps(epath.Path(tmp_path)) == [1, 2]
  run = Run(toy, tmp_path)
  assert_equal(states[2], run.restore())
  states = run.save(3, 4, 13)  # '1٣' is 13 to int.
  assert_equal(states[13], Run(toy, tmp_path).restore())
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
    [*odd, '3', '4', '13']
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'make',
  [
    pathlib.Path.mkdir,
    pathlib.Path.touch,
    os.mkfifo,
    lambda path: path.symlink_to(path.parent / 'nowhere'),
  ],
  ids=['a folder', 'a file', 'a fifo', 'a dangling link'],
)
def test_a_damaged_step_is_renamed_and_not_deleted(toy, tmp_path, make):
  states = Run(toy, tmp_path).save(1)
  (tmp_path / 'damaged_2').mkdir()
  (tmp_path / 'damaged_2' / 'mine').touch()
  make(tmp_path / '2')
  run = Run(toy, tmp_path)
  assert_equal(states[1], run.restore())
  states = run.save(2)
  assert_equal(states[2], Run(toy, tmp_path).restore())
  assert (tmp_path / 'damaged_2' / 'mine').exists()
  assert os.path.lexists(tmp_path / 'damaged_2_2')


@pytest.mark.parametrize(
  'make',
  [
    pathlib.Path.touch,
    os.mkfifo,
    lambda path: path.symlink_to(path.parent / 'a disk that is not there'),
  ],
)
def test_a_file_in_place_of_the_checkpoints_raises(toy, tmp_path, make):
  make(tmp_path / 'checkpoints')
  with pytest.raises(UserError) as error:
    Run(toy, tmp_path / 'checkpoints').restore()
  assert error.value.key == '--workdir'
  assert str(error.value).startswith(str(tmp_path / 'checkpoints'))


def test_a_checkpoint_behind_a_link_is_used_and_kept(toy, tmp_path):
  config = ml_collections.ConfigDict(
    {'keep_checkpoints': 1, 'keep_every_steps': 0}
  )
  states = Run(toy, tmp_path / 'run').save(1)
  (tmp_path / 'run/1').rename(tmp_path / 'elsewhere')
  (tmp_path / 'run/1').symlink_to(tmp_path / 'elsewhere')
  run = Run(toy, tmp_path / 'run', config=config)
  assert_equal(states[1], run.restore())
  run.save(2)
  assert (tmp_path / 'elsewhere/state').exists()


@pytest.mark.parametrize(
  'name',
  [
    'about/metadata',
    'state/manifest.ocdbt',
    'state/_METADATA',
    '_CHECKPOINT_METADATA',
  ],
)
def test_a_fifo_in_a_checkpoint_is_not_waited_for(toy, tmp_path, name):
  run = Run(toy, tmp_path)
  states = run.save(1, 2)
  (tmp_path / '2' / name).unlink()
  os.mkfifo(tmp_path / '2' / name)
  assert_equal(states[1], run.restore())


def test_all_damaged_stops_and_touches_nothing(toy, tmp_path):
  run = Run(toy, tmp_path)
  run.save(1, 2)
  for step in '12':
    for path in arrays(tmp_path / step):
      path.unlink()
  with pytest.raises(UserError) as error:
    run.restore()
  assert (error.value.key, error.value.value) == ('--workdir', [1, 2])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', '2']


def test_the_config_is_in_every_checkpoint(toy, tmp_path):
  Run(toy, tmp_path).save(1)
  about = json.loads((tmp_path / '1/about/metadata').read_text())
  assert about['config'] == CONFIG.to_dict()


@pytest.mark.long
def test_a_full_disk_raises_a_one_line_error_and_loses_nothing(
  toy, whole, tmp_path, monkeypatch
):
  task, limits = toy.Toy(), resource.getrlimit(resource.RLIMIT_FSIZE)
  # Otherwise half a compiled module stays in the cache for other tests.
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)

  def fill_disk(params, step):
    while not (tmp_path / 'cut/checkpoints/4').exists():
      time.sleep(0.01)
    # From now on no file may grow beyond 4 kB; a save needs 12.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

  task.pictures = fill_disk
  try:
    with pytest.raises(TransientError, match='step 4'):
      toy.run(
        tmp_path / 'cut', task, log_every_steps=100, pictures_every_steps=5
      )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert_equal(whole[1], toy.run(tmp_path / 'cut'))


@pytest.mark.long
def test_running_out_of_memory_is_not_reported_as_damage(
  toy, whole, tmp_path, monkeypatch
):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)

  def restore(*_, **__):
    raise jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.'
    )

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'restore', restore)
    with pytest.raises(UserError, match='--layout fsdp'):
      toy.run(tmp_path)
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == [
    '10',
    '8',
  ]
  assert_equal(toy.run(tmp_path), whole[1])


@pytest.mark.long
def test_every_nth_step_is_kept_permanently(toy, tmp_path):
  config = ml_collections.ConfigDict(
    {'keep_checkpoints': 2, 'keep_every_steps': 3}
  )
  Run(toy, tmp_path, config=config).save(*range(1, 9))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['3', '6', '7', '8']


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: [flip(p) for p in arrays(folder)],
    *(
      pytest.param(damage, marks=pytest.mark.long)
      for damage in (
        lambda folder: [truncate(p) for p in arrays(folder)],
        lambda folder: [p.unlink() for p in files(folder / 'about')],
        lambda folder: (folder / 'data/metadata').write_text('{}'),
      )
    ),
  ],
  ids=['flipped', 'truncated', 'no about', 'other data'],
)
def test_a_checkpoint_that_does_not_read_back_deletes_no_older_one(
  toy, tmp_path, damage, caplog, monkeypatch
):
  """Loses written data, as a failing disk does."""
  config = ml_collections.ConfigDict(
    {'keep_checkpoints': 1, 'keep_every_steps': 0}
  )
  run = Run(toy, tmp_path, config=config)
  states = run.save(1)
  begin = Checkpoints._read_back

  def break_first(self):
    self._manager.wait_until_finished()
    if self._reading is None:
      damage(tmp_path / '2')
    begin(self)

  monkeypatch.setattr(Checkpoints, '_read_back', break_first)
  with caplog.at_level(logging.WARNING, 'absl'):
    run.save(2)
  assert 'step 2' in caplog.text and 'damaged_2' in caplog.text
  assert sorted(p.name for p in tmp_path.iterdir()) == ['1', 'damaged_2']
  assert_equal(states[1], Run(toy, tmp_path).restore())
  monkeypatch.undo()
  states = run.save(3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['3', 'damaged_2']
  assert_equal(states[3], Run(toy, tmp_path).restore())


@pytest.mark.long
def test_in_a_hurry_nothing_is_read_back_first(toy, tmp_path, monkeypatch):
  run, read = Run(toy, tmp_path), []
  monkeypatch.setattr(
    'sana_jax.training.checkpoints._part_of',
    lambda checkpoint, _, meant: (
      read.append(checkpoint.name) or (meant['about']['state'], None)
    ),
  )
  with Checkpoints(tmp_path, CONFIG) as checkpoints:
    state = run.init(jax.random.key(1))
    for step, hurry in (1, False), (2, False), (3, True):
      checkpoints.save(step, state, run.batches, hurry=hurry)
    assert read == ['1']
  assert read == ['1', '3']
