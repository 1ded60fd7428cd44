"""The ledger's quick cases of the judge NVILA, and published key names."""

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

from sana_jax.evaluation.nvila import pictures  # noqa: E402
from sana_jax.tools.parity import ledger, nvila  # noqa: E402
from sana_jax.weights import nvila as weights  # noqa: E402
from sana_jax.weights import table  # noqa: E402


@pytest.mark.parametrize(
  'case', [c for c in nvila.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = int(np.random.SeedSequence().generate_state(1)[0])
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


def test_the_published_size_has_the_keys_and_shapes_of_transformers():
  siglip = nvila.SIGLIP_FULL | dict(num_hidden_layers=27)
  qwen2 = nvila.QWEN2_FULL | dict(num_hidden_layers=28)
  configs = {
    'vision_tower': siglip,
    'mm_projector': {'mm_projector_type': 'mlp_downsample_3x3_fix'},
    'llm': qwen2,
  }
  module, rules = weights.assembled(configs, 1, np.float32)
  blank = jax.tree.map(
    lambda s: np.broadcast_to(np.int8(0), s.shape),
    weights.shapes(module)['params'],
  )
  got = {k: v.shape for k, v in table.save(rules, blank).items()}
  with torch.device('meta'):
    tower = transformers.SiglipVisionModel(
      transformers.SiglipVisionConfig(**siglip)
    )
    llm = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**qwen2))
  parts = {'vision_tower.': tower, 'llm.': llm}
  want = {
    prefix + k: tuple(v.shape)
    for prefix, part in parts.items()
    for k, v in part.state_dict().items()
  }
  unused = 'encoder.layers.26.', 'post_layernorm', 'llm.lm_head'
  assert {k: v for k, v in got.items() if 'projector' not in k} == {
    k: v for k, v in want.items() if not any(x in k for x in unused)
  }


@pytest.mark.parametrize('size, out', [(21, 7), (21, 14), (6, 9), (5, 5)])
def test_the_bicubic_matrix_is_that_of_torch(size, out):
  x = np.random.default_rng().normal(size=(1, 1, size, size))
  matrix = pictures.bicubic(size, out).astype(np.float64)
  want = F.interpolate(torch.tensor(x), size=out, mode='bicubic')
  np.testing.assert_allclose(matrix @ x[0, 0] @ matrix.T, want[0, 0], atol=1e-6)
