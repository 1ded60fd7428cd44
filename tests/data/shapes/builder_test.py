import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from sana_jax.data.shapes import builder, render, scene
from sana_jax.errors import UserError

KILLED = """
import os, signal
from sana_jax.data.shapes import builder

def scene(seed, split, index, real=builder.scene, **options):
  if index == 30:
    os.kill(os.getpid(), signal.SIGKILL)
  return real(seed, split, index, **options)

builder.scene = scene
builder.prepare({path!r}, 16, 40, heldout_examples=8)
"""


def prepare(path):
  return builder.prepare(path, 16, 40, heldout_examples=8)


def test_record_i_is_scene_i_without_tensorflow(tmp_path, capsys):
  data = prepare(tmp_path)
  for split, count in (('train', 40), ('heldout', 8)):
    records = data.as_data_source(split=split)
    assert len(records) == count
    for i in (0, 1, count - 1):
      expected = scene(0, split, i)
      record = records[i]
      np.testing.assert_array_equal(record['image'], render(expected, 16))
      assert record['caption'].decode() == expected.caption
      assert record['kind'].decode() == expected.kind
      assert json.loads(record['scene']) == json.loads(
        json.dumps(dataclasses.asdict(expected))
      )
  assert 'tensorflow' not in sys.modules
  assert capsys.readouterr() == ('', '')


def test_present_data_are_not_written_again(tmp_path):
  files = lambda: {f: f.stat().st_mtime_ns for f in tmp_path.rglob('*record*')}
  prepare(tmp_path)
  before = files()
  prepare(tmp_path)
  assert before == files()
  assert len(before) == 2


def test_other_parameters_are_other_data(tmp_path):
  folders = {
    str(builder.prepare(tmp_path, *args, heldout_examples=2).data_path)
    for args in ((8, 2), (16, 2), (8, 3), (8, 2, 1))
  }
  free = builder.prepare(tmp_path, 8, 2, heldout_examples=2, layout='free')
  assert len(folders | {str(free.data_path)}) == 5


@pytest.mark.long
def test_a_killed_preparation_is_never_taken_for_a_complete_one(tmp_path):
  code = KILLED.format(path=str(tmp_path))
  done = subprocess.run(
    [sys.executable, '-c', code],
    check=False,
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join(p for p in sys.path if p) or '.',
    },
  )
  assert done.returncode == -signal.SIGKILL
  assert list(tmp_path.rglob('*incomplete*'))
  assert len(prepare(tmp_path).as_data_source(split='train')) == 40


def test_invalid_parameters_are_reported(tmp_path):
  with pytest.raises(UserError) as error:
    builder.prepare(tmp_path, 64, 0)
  assert (error.value.key, error.value.value) == ('train_examples', 0)


@pytest.mark.parametrize(
  'folder, size',
  [('foo://x', 64), ('/proc/x', 64), ('/dev/null', 64), ('folder', 2**31 - 1)],
)
def test_a_failed_preparation_leaves_no_files(
  folder, size, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises((UserError, NotADirectoryError, FileNotFoundError)):
    builder.prepare(folder, size)
  assert not list(tmp_path.iterdir())
