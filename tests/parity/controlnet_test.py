"""The ledger's quick cases of the ControlNet."""

import numpy as np
import pytest

from sana_jax.parity import controlnet, ledger

pytestmark = pytest.mark.parity


@pytest.mark.parametrize('case', controlnet.cases(), ids=lambda c: c.name)
def test_parity(case):
  seed = int(np.random.SeedSequence().generate_state(1)[0])
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'
