"""The ledger's quick cases of the transformer, and its weights and configs."""

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import diffusers  # noqa: E402
import torch  # noqa: E402

from sana_jax import config as configs  # noqa: E402
from sana_jax.models.sana import Sana  # noqa: E402
from sana_jax.parity import ledger, references, sana  # noqa: E402
from sana_jax.weights import sana as weights  # noqa: E402
from sana_jax.weights import table  # noqa: E402


def fresh_seed():
  return int(np.random.SeedSequence().generate_state(1)[0])


@pytest.mark.parametrize(
  'case', [c for c in sana.cases() if c.quick], ids=lambda c: c.name)
def test_parity(case):
  seed = fresh_seed()
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


@pytest.mark.parametrize('variant', sana.VARIANTS)
def test_weights_and_config_survive_the_round_trip(variant):
  model = sana.make(sana.TINY | sana.VARIANTS[variant], fresh_seed())
  module, params = sana.converted(
    model.config, references.weights(model), np.float32)
  saved = table.save(weights.rules(module.guidance_embeds), params)
  want = {k: v.numpy() for k, v in model.state_dict().items()}
  assert saved.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)
  fields = weights.fields_from_diffusers(dict(model.config))
  again = diffusers.SanaTransformer2DModel.from_config(
    weights.diffusers_config(fields))
  public = {k: v for k, v in model.config.items() if k[0] != '_'}
  assert {k: again.config[k] for k in public} == public


@pytest.mark.parametrize('size', ['sana_600m_1024', 'sana_1600m_4k',
                                  'sana15_1600m_1024', 'sana15_4800m_1024'])
def test_published_sizes_have_the_keys_and_shapes_of_diffusers(size):
  module = Sana(**configs.SANA_SIZES[size])
  fields = {f: getattr(module, f) for f in module.__dataclass_fields__}
  with torch.device('meta'):
    model = diffusers.SanaTransformer2DModel.from_config(
      weights.diffusers_config(fields))
  want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  blank = jax.tree.map(
    lambda s: np.broadcast_to(np.float32(0), s.shape), sana.shapes(module))
  got = {k: v.shape for k, v in table.save(weights.rules(), blank).items()}
  assert got == want
