"""sana-jax launch refuses runs that do not fit, and lists remedies."""

import dataclasses
import json

import pytest

from sana_jax.analysis import topologies
from sana_jax.tools.plan import runner
from sana_jax.tools.plan.report import Plan

TINY = """
from sana_jax import config as base

def get_config(arg=''):
  config = base.train('sana')
  config.model.update(width=64, depth=2, cross_heads=2, sample_size=8)
  config.batch_size = 64
  return config
"""


def compile_by_rule(self, facts):
  """Replaces XLA: 1 GiB per image of a device, and 2 GiB for the rest."""
  sizes = facts['config']['mesh']
  images = facts['config']['batch_size'] // (sizes['data'] * sizes['fsdp'])
  self.compiled += 1
  return json.loads(
    json.dumps(
      dataclasses.asdict(
        Plan(
          facts['layout'],
          facts['topology'],
          facts['mode'],
          {k: v for k, v in sizes.items() if k != 'slices'},
          facts['config']['batch_size'],
          100,
          usable=15.75 * 2**30,
          memory={'parameters': 2**31, 'temporaries': images * 2**30},
        )
      )
    )
  )


@pytest.fixture
def launch(tmp_path, monkeypatch):
  """A launch of a tiny model, with compilers that follow the rule."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(runner.cache, 'FOLDER', str(tmp_path / 'cache'))
  monkeypatch.setattr(topologies, '_check_compiler', lambda *_: None)
  monkeypatch.setattr(runner.Runner, '_compile', compile_by_rule)
  (tmp_path / 'tiny.py').write_text(TINY)
  return lambda *more: (
    'launch',
    '--where',
    'slurm',
    '--topology',
    'h200:1x2x8',
    '--config',
    'tiny.py',
    '--workdir',
    '/shared/run',
    *more,
  )


@pytest.fixture
def failure(launch, cli, raised):
  """Launches in vain; returns the UserError. Log lines precede it."""

  def run(*more):
    code, out, err = cli(*launch(*more))
    assert (code, out) == (2, '')
    assert str(raised[-1]) in err.splitlines()[-1]
    return raised[-1]

  return run


def test_a_run_that_fits_is_launched(launch, cli):
  code, out, err = cli(*launch('--layout', 'fsdp', '--dry-run'))
  # 64 images on 16 GPUs: 4 + 2 GiB.
  assert code == 0
  assert all(fact in err for fact in ('fsdp', 'h200:1x2x8', '6.00', '15.75'))
  assert out.startswith('#!/usr/bin/env bash')
  assert '--layout=fsdp' in out


@pytest.mark.long
def test_a_run_that_is_too_large_is_refused_with_remedies(failure, tmp_path):
  error = failure('--layout', 'sequence')
  # 64 images in 4 groups: 16 + 2 GiB.
  assert (error.key, error.value) == ('--layout', 'sequence')
  assert 'config.batch_size=32' in error.allowed
  for gib in ('18.00', '15.75', '2.25', '10.00'):
    assert gib in str(error)
  assert not (tmp_path / 'out').exists()


@pytest.mark.long
def test_a_layout_is_advised_where_the_config_has_none(failure):
  error = failure(
    '--config.mesh.data=2',
    '--config.mesh.sequence=8',
    '--config.optimizer.name=came_8bit',
    '--config.model.remat=full',
    '--config.batch_size=48',
  )
  # 48 images in 2 groups: 24 + 2 GiB; in 16 groups, 3 + 2.
  assert (error.key, error.value) == ('--layout', None)
  assert 'layout dp' in error.allowed
  assert '26.00' in str(error) and '5.00' in str(error)


def test_a_second_check_compiles_nothing(launch, cli, monkeypatch):
  assert cli(*launch('--dry-run'))[0] == 0
  monkeypatch.setattr(runner.Runner, '_compile', None)
  assert cli(*launch('--dry-run'))[0] == 0


def test_an_invalid_layout_is_reported(failure):
  error = failure('--layout', 'hybrid', '--topology', 'h200:1x1x8')
  assert (error.key, error.value) == ('--layout', 'hybrid')
  assert 'h200:1x1x8' in str(error)


def test_any_task_is_planned(launch, cli):
  code, _, err = cli(
    *launch(
      '--config',
      'shapes_text_encoder',
      '--config.batch_size=64',
      '--layout',
      'fsdp',
      '--dry-run',
    )
  )
  assert code == 0, err
  assert all(fact in err for fact in ('fsdp', 'h200:1x2x8', '6.00', '15.75'))


def test_a_missing_compiler_is_reported(launch, refused, monkeypatch):
  monkeypatch.undo()
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  message = refused(*launch('--config', 'sana_600m_512'))
  for fact in ('jax_cuda13_plugin', '[gpu]', '--no-plan'):
    assert fact in message


def test_cpus_have_nothing_to_plan(launch, cli, monkeypatch):
  monkeypatch.setattr(runner.Runner, '_compile', None)
  code, _, err = cli(*launch('--topology', 'cpu:2x2', '--dry-run'))
  assert code == 0 and 'GiB' not in err
