"""The largest batch that fits, and changes that make others fit."""

import dataclasses

import pytest

from sana_jax import config as base
from sana_jax.analysis import chips
from sana_jax.tools.plan import fitting
from sana_jax.tools.plan.candidates import Candidate, copied
from sana_jax.tools.plan.report import Plan
from sana_jax.tree import flatten

pytestmark = pytest.mark.fast

POD = chips.parse('v5e:4x4')


@pytest.mark.parametrize('limit', [0, 1, 2, 3, 4, 5, 7, 8, 13, 31, 100, 511])
def test_the_largest_batch_is_found_to_an_eighth(limit):
  tried = []

  def fits(n):
    tried.append(n)
    return n <= limit

  found = fitting.largest(fits)
  assert found <= limit < found + max(1, found // 8) + 1
  assert len(tried) == len(set(tried)) <= 12


def candidate(batch=64, **changes):
  config = copied(base.train('sana'))
  config.batch_size = batch
  config.update(changes)
  return Candidate('dp', config)


def plan_of(one, needed):
  return Plan(
    one.name,
    'v5e:4x4',
    'train',
    {},
    one.config.batch_size,
    10,
    usable=10.0,
    memory={'temporaries': needed},
  )


def test_fitting_compiles_batches_and_returns_the_best():
  best, plan = fitting.fit(
    candidate(), POD, lambda c: plan_of(c, c.config.batch_size // 16)
  )
  assert best.config.batch_size == 10 * 16 and plan.fits
  none, plan = fitting.fit(candidate(), POD, lambda c: plan_of(c, 11))
  assert none.config.batch_size == 16 and not plan.fits


def test_three_changes_that_fit_are_returned_with_their_plans():
  compiled = []

  def compile_(one):
    compiled.append(one)
    small = one.config.optimizer.name == 'came_8bit' or one.name == 'fsdp'
    return plan_of(one, 9 if small or one.config.batch_size == 16 else 12)

  others = [
    dataclasses.replace(candidate(), name='fsdp'),
    dataclasses.replace(candidate(), name='none', problem='No.'),
  ]
  found = fitting.remedies(candidate(), POD, others, compile_)
  assert [name for name, _ in found] == [
    "config.optimizer.name='came_8bit'",
    'layout fsdp',
    'config.batch_size=16',
  ]
  assert all(plan.fits for _, plan in found)
  assert len(compiled) > 3  # Those that did not fit were compiled too.


def test_a_change_changes_one_thing():
  one = candidate()
  for change in fitting.changes(one, POD, []):
    before, after = (flatten(c.config, '.') for c in (one, change.candidate))
    assert sum(before[k] != after[k] for k in before) == 1
    key = change.description.removeprefix('config.').partition('=')[0]
    assert key in before
  assert flatten(one.config, '.')['batch_size'] == 64
