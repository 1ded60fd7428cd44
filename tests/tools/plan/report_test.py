"""Predictions by closed forms, and the order of plans."""

import dataclasses
import json

import pytest

from sana_jax.analysis.buffers import Temporary
from sana_jax.analysis.collectives import Collective
from sana_jax.analysis.work import Work
from sana_jax.tools.plan import report
from sana_jax.tools.plan.report import Plan, predict

pytestmark = pytest.mark.fast

# A v5e does 197e12 FLOP and moves 819e9 bytes a second.
PLAN = Plan(
  'fsdp',
  'v5e:4x4',
  'train',
  {'data': 1, 'fsdp': 16},
  64,
  num_steps=3600,
  usable=15.75 * 2**30,
  memory={'parameters': 2**30, 'temporaries': 2**30},
  model_flops=16 * 197e12,
  hardware_flops=20 * 197e12,
  work=[Work(197e12, 0.0), Work(0.0, 819e9)],
  temporaries=[Temporary(2**30, 'f32[1]', 'x.py:1 dot')],
)
RING = Collective('all-gather', 'fsdp', 'ici', 4, True, 1, 200e9)


def test_operations_follow_each_other():
  found = predict(PLAN)
  assert (found.total, found.compute, found.memory) == (2, 1, 1)
  assert found.images_per_second == 32 and found.per_chip == 2
  assert found.mfu == pytest.approx(0.5)
  assert found.days * 24 == pytest.approx(2)
  assert found.chip_hours == pytest.approx(32)


@pytest.mark.parametrize(
  'changes, seconds, hidden, exposed',
  [
    ({'hidden': True}, 2, 1, 0),
    ({'hidden': False}, 3, 0, 1),
    ({'hidden': True, 'bytes': 600e9}, 3, 2, 1),
  ],
)
def test_communication_beside_work_costs_what_is_left(
  changes, seconds, hidden, exposed
):
  plan = dataclasses.replace(
    PLAN, collectives=[dataclasses.replace(RING, **changes)]
  )
  found = predict(plan)
  assert (found.total, found.hidden, found.exposed) == (
    seconds,
    hidden,
    exposed,
  )


def test_one_device_is_predicted_without_a_topology():
  device = dataclasses.replace(PLAN.pod.chip, flops=2e12, memory_rate=1e9)
  found = report.seconds([Work(4e12, 1e9), Work(1e12, 3e9)], [], device)
  assert dataclasses.astuple(found) == (2 + 3, 2, 3, 0, 0)
  assert found.bound == 'memory'
  assert report.seconds(PLAN.work, [RING], PLAN.pod.chip).total == (
    predict(dataclasses.replace(PLAN, collectives=[RING])).total
  )


def test_what_takes_longest_is_named():
  slow = dataclasses.replace(RING, hidden=False, bytes=2000e9)
  assert predict(dataclasses.replace(PLAN, collectives=[slow])).bound == (
    'communication'
  )
  assert (
    predict(dataclasses.replace(PLAN, work=[Work(0.0, 9e12), *PLAN.work])).bound
    == 'memory'
  )


def test_a_chip_of_two_devices_counts_as_one():
  plan = dataclasses.replace(
    PLAN,
    topology='tpu7x:2x2x1',
    work=[Work(2307e12 / 2, 0.0)],
    batch=8,
    model_flops=4 * 2307e12,
  )
  found = predict(plan)
  assert (found.total, found.per_chip, found.mfu) == (1, 2, pytest.approx(1))
  assert found.per_chip == 2 and plan.per_chip == 2


def test_plans_are_ranked_by_speed_and_then_by_what_is_missing():
  name = lambda n, **changes: dataclasses.replace(PLAN, layout=n, **changes)
  plans = [
    name('none', problem='No.'),
    name('over', usable=2.0**30),
    name('far over', usable=2.0**29),
    name('slow', work=[Work(1e15, 0.0)]),
    name('fast'),
  ]
  assert [p.layout for p in report.ranked(plans)] == [
    'fast',
    'slow',
    'over',
    'far over',
    'none',
  ]


def test_json_holds_everything():
  plan = dataclasses.replace(PLAN, collectives=[RING])
  text = json.dumps(dataclasses.asdict(plan))
  assert report.from_dict(json.loads(text)) == plan
