"""The ledger's quick cases of whole pipelines."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

from sana_jax.tools.parity import ledger, pipeline  # noqa: E402


@pytest.mark.parametrize(
  'case', [c for c in pipeline.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = int(np.random.SeedSequence().generate_state(1)[0])
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'
