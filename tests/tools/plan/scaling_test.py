"""Predictions for other numbers of chips, by closed forms."""

import dataclasses

import pytest

from sana_jax.analysis.collectives import Collective
from sana_jax.analysis.work import Work
from sana_jax.tools.plan import scaling
from sana_jax.tools.plan.report import Plan, predict

pytestmark = pytest.mark.fast

PLAN = Plan(
  'fsdp',
  'v5e:4x4',
  'train',
  {'data': 2, 'fsdp': 8},
  32,
  100,
  usable=1e10,
  memory={'parameters': 10**9},
  work=[Work(197e12, 0.0)],
  model_flops=1e15,
  collectives=[
    Collective('all-gather', 'fsdp', 'ici', 4, False, 1, 7 / 8 * 100e9),
    Collective('all-reduce', 'data', 'ici', 4, False, 1, 50e9),
  ],
)


def seconds(plan, count):
  ((_, rate, _),) = scaling.curve(plan, [count])
  return plan.per_chip * count / rate


def test_on_its_own_pod_it_is_the_prediction():
  assert seconds(PLAN, 16) == pytest.approx(predict(PLAN).total)


def test_one_chip_has_no_communication():
  assert seconds(PLAN, 1) == pytest.approx(1)


def test_more_copies_cost_the_ring_of_gradients_only():
  # Two copies send 2 * 1/2 of the gradients, four 2 * 3/4; 200 GB/s.
  gather = 7 / 8 * 100 / 200
  assert seconds(PLAN, 32) == pytest.approx(1 + gather + 1.5 * 50 / 200)


def test_beyond_a_slice_replicas_communicate_over_the_network():
  # 512 chips are two slices: data = 64, of which 32 lie in a slice.
  ring = 2 * 63 / 64 * 50e9
  expected = 1 + 7 / 8 * 100 / 200 + ring / (32 * 25e9 / 8)
  assert seconds(PLAN, 512) == pytest.approx(expected)


def test_the_first_copies_bring_a_sum_of_gradients():
  plan = dataclasses.replace(PLAN, mesh={'data': 1, 'fsdp': 16}, collectives=[])
  # 10^9 bytes of float32 gradients a device, over all four links or half.
  assert seconds(plan, 16) == pytest.approx(1)
  assert seconds(plan, 32) == pytest.approx(1 + 2 * 1e9 / 2 / 100e9)


def test_pods_that_a_mesh_does_not_fit_are_left_out():
  plan = dataclasses.replace(PLAN, mesh={'fsdp': 4, 'sequence': 4})
  assert [p.chips for p in scaling.curve(plan)] == [
    4,
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    1024,
  ]


def test_a_state_in_fewer_parts_may_not_fit():
  # 10^9 bytes of parameters, as many of gradients: twice that on half a group.
  plan = dataclasses.replace(
    PLAN, usable=3e9, memory={'parameters': 10**9, 'temporaries': 10**9}
  )
  assert [p.fits for p in scaling.curve(plan, [1, 2, 4, 8, 16])] == [
    False,
    False,
    False,
    True,
    True,
  ]
