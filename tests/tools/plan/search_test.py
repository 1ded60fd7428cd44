"""Formulas rank meshes; expected values follow from the papers' sizes."""

import math

import jax
import pytest

from sana_jax import config as base
from sana_jax.analysis import chips
from sana_jax.tools.plan import candidates, search

POD = chips.parse('v5e:4x4')
FORWARD = 2.967e12  # Of the 1.6B at 1024 px.


def config(**changes):
  found = candidates.copied(base.train('sana'))
  found.model.update(base.SANA_SIZES['sana_1600m_1024'], remat='full')
  found.optimizer.name = 'came'
  found.batch_size = 64
  found.mesh.update(data=1, fsdp=16)
  for key, value in changes.items():
    node = found.mesh if key in found.mesh else found
    node[key] = value
  return found


@pytest.fixture(scope='module')
def params():
  return candidates.shapes(config())


def estimate(pod=POD, **changes):
  return search.estimate(config(**changes), pod, 1_604_462_752, FORWARD)


def test_state_and_gradients_are_twenty_bytes_a_parameter():
  # float32: itself, its average, CAME's moment, its gradient and update.
  assert estimate().state == pytest.approx(1_604_462_752 * 20 / 16)
  assert estimate(data=16, fsdp=1).state == pytest.approx(1_604_462_752 * 20)


def test_a_step_takes_no_less_than_its_products():
  # 64 images on 16 chips of 197 TFLOP/s, four passes.
  least = 4 * FORWARD * 4 / 197e12
  assert least < estimate().seconds < 2 * least


def test_candidates_whose_state_does_not_fit_are_not_compiled():
  usable = POD.chip.usable
  assert not estimate(data=16, fsdp=1).may_fit(usable)
  assert estimate().may_fit(usable)


def test_more_parts_need_less_memory_and_more_gathering():
  one, four = estimate(), estimate(accumulate_steps=4)
  assert four.bytes - four.state < one.bytes - one.state
  assert four.seconds > one.seconds


def test_the_best_are_on_the_pod_and_of_different_meshes(params):
  one = config()
  found = search.best(one, POD, params, FORWARD, 4)
  assert len(found) == 4 and not any(c.problem for c in found)
  meshes = [tuple(c.config.mesh.items()) for c in found]
  assert max(meshes.count(m) for m in meshes) <= 2
  for c in found:
    assert math.prod(v for k, v in c.config.mesh.items() if k != 'slices') == 16
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  first = search.estimate(found[0].config, POD, total, FORWARD)
  assert first.may_fit(POD.chip.usable)


@pytest.mark.long
def test_kernels_and_batches_are_searched_too(params):
  one = config()
  found = list(search.space(one, POD, params, (2, 4)))
  assert {c.config.batch_size for c in found} == {32, 64}
  assert {c.config.kernels.glumb_conv for c in found} == {'', 'mosaic_tpu'}
  assert len({c.name for c in found}) == len(found)
  a100 = chips.parse('a100:1x1x8')  # Our kernels are for Hopper.
  assert {
    c.config.kernels.glumb_conv
    for c in search.space(config(fsdp=8), a100, params)
  } == {''}


@pytest.mark.long
def test_the_largest_batch_wins_where_weights_are_what_is_moved(params):
  found = search.best(config(), POD, params, FORWARD, 1, (1, 4))
  assert found[0].config.batch_size == 4 * 16
