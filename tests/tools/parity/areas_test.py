"""The ledger's quick cases of areas without a separate test file."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

from sana_jax.tools.parity import (  # noqa: E402
  controlnet,
  controlnet_pipeline,
  distillation,
  ladd,
  ledger,
  lora,
  optim,
  samplers,
  sprint,
  text,
)

CASES = [
  case
  for area in (
    controlnet,
    controlnet_pipeline,
    distillation,
    ladd,
    lora,
    optim,
    samplers,
    sprint,
    text,
  )
  for case in area.cases()
  if case.quick
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_parity(case):
  seed = int(np.random.SeedSequence().generate_state(1)[0])
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'
