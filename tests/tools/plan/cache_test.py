"""The key of a cached plan covers everything that determines a program."""

import json
import pathlib

import pytest

import sana_jax
from sana_jax import config as base
from sana_jax.tools.plan import cache
from sana_jax.tools.plan.imports import imported_files

ROOT = pathlib.Path(sana_jax.__file__).parent
# Files that decide a program: initial values and shapes, its time grid, the
# length of its text, how its task is put together.
DECISIVE = (
  'models/sana.py',
  'models/abstract.py',
  'inference/schedulers.py',
  'tasks/common.py',
  'tasks/sana/task.py',
  'tasks/dc_ae.py',
)


@pytest.mark.long
def test_every_file_that_decides_a_program_is_in_the_key():
  hashed = {
    path.relative_to(root).as_posix() for root, path in cache.source_files()
  }
  assert hashed >= {
    *DECISIVE,
    'analysis/h200.txtpb',
    'optim/came.py',
    'analysis/hlo.py',
    'dispatch.py',
    'tuning.py',
  }


@pytest.mark.long
def test_files_that_only_run_or_report_are_not_in_the_key():
  hashed = {
    path.relative_to(root).as_posix() for root, path in cache.source_files()
  }
  assert not hashed & {
    'training/loop.py',
    'tools/plan/page.py',
    'tools/plan/search.py',
    'inference/gallery.py',
  }


def test_imports_are_followed_into_functions_and_packages(tmp_path):
  for name, text in {
    '__init__.py': 'from sana_jax.unused import x',
    'a.py': 'def f():\n  from sana_jax.part import one, two',
    'part/__init__.py': 'import sana_jax.part.three',
    'part/one.py': 'from sana_jax import b\nimport os, jax',
    'part/two.py': '',
    'part/three.py': 'from sana_jax.a import f',
    'part/four.py': '',
    'b.py': '',
    'unused.py': '',
  }.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  found = imported_files(tmp_path, 'a')
  assert {p.relative_to(tmp_path).as_posix() for p in found} == {
    'a.py',
    'b.py',
    'part/__init__.py',
    'part/one.py',
    'part/two.py',
    'part/three.py',
  }


def key(**changes):
  config = base.train('sana')
  base.apply_overrides(
    config, [f'--config.{k}={v}' for k, v in changes.items()]
  )
  return cache.key(
    {
      'config': json.loads(config.to_json()),
      'layout': 'x',
      'topology': 'v5e:4x4',
      'mode': 'train',
    }
  )


def test_a_key_of_the_config_that_changes_no_program_is_not_in_the_key():
  same = {
    'seed': 3,
    'checkpoint_cache': '/x',
    'init_from': 'x',
    'data.threads': 2,
    'watch.stall_minutes': 1,
    'keep_every_steps': 500,
  }
  assert key(**same) == key()
  for name, value in {
    'num_steps': 7,
    'mesh.fsdp': 4,
    'model.remat': 'full',
    'optimizer.eps': 1e-3,
    'flow.shift': 2.0,
    'optimizer.groups': '.*:rate_scale=2',
  }.items():
    assert key(**{name: value}) != key(), name
