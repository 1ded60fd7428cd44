"""The ledger's quick cases of the transformer, and its weights and configs."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import diffusers  # noqa: E402

from sana_jax.tools.parity import ledger, references, sana  # noqa: E402
from sana_jax.weights import sana as weights  # noqa: E402
from sana_jax.weights import table  # noqa: E402


def fresh_seed():
  return int(np.random.SeedSequence().generate_state(1)[0])


@pytest.mark.parametrize(
  'case', [c for c in sana.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = fresh_seed()
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


@pytest.mark.parametrize('variant', sana.VARIANTS)
def test_weights_and_config_survive_the_round_trip(variant):
  model = sana.make(sana.TINY | sana.VARIANTS[variant], fresh_seed())
  module, params = sana.converted(
    model.config, references.weights(model), np.float32
  )
  saved = table.save(weights.rules(module.guidance_embeds), params)
  want = {k: v.numpy() for k, v in model.state_dict().items()}
  assert saved.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)
  fields = weights.fields_from_diffusers(dict(model.config))
  again = diffusers.SanaTransformer2DModel.from_config(
    weights.diffusers_config(fields)
  )
  public = {k: v for k, v in model.config.items() if k[0] != '_'}
  assert {k: again.config[k] for k in public} == public
