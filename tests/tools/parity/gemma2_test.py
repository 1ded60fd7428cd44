"""The ledger's quick cases of Gemma-2, and its weights and configs."""

import json

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import safetensors.numpy  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from sana_jax.models.gemma2 import Gemma2, SIZES  # noqa: E402
from sana_jax.tools.parity import gemma2, ledger, references  # noqa: E402
from sana_jax.weights import gemma2 as weights  # noqa: E402
from sana_jax.weights import table  # noqa: E402


def fresh_seed():
  return int(np.random.SeedSequence().generate_state(1)[0])


@pytest.mark.parametrize(
  'case', [c for c in gemma2.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = fresh_seed()
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


def converted(model):
  return gemma2.converted(
    model.config.to_dict(), references.weights(model), np.float32
  )


def test_weights_survive_the_round_trip_byte_for_byte():
  theirs = gemma2.make({}, fresh_seed())
  _, params = converted(theirs)
  saved = table.save(weights.RULES, params)
  want = {k: v.numpy() for k, v in theirs.model.state_dict().items()}
  assert saved.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)


def test_transformers_loads_an_exported_folder(tmp_path):
  seed = fresh_seed()
  theirs = gemma2.make(gemma2.VARIANTS['full attention first'], seed)
  model, params = converted(theirs)
  fields = weights.fields_from_transformers(theirs.config.to_dict())
  (tmp_path / 'config.json').write_text(
    json.dumps(weights.transformers_config(fields))
  )
  safetensors.numpy.save_file(
    {
      k: np.ascontiguousarray(x)
      for k, x in table.save(weights.RULES, params).items()
    },
    tmp_path / 'model.safetensors',
    metadata={'format': 'pt'},
  )
  loaded, info = transformers.Gemma2Model.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not any(info.values())
  assert type(transformers.AutoModel.from_pretrained(tmp_path)) is type(loaded)
  public = theirs.config.to_dict()
  ignored = 'architectures', 'dtype', '_name_or_path'
  got = loaded.config.to_dict()
  assert {k: got[k] for k in public if k not in ignored} == {
    k: v for k, v in public.items() if k not in ignored
  }
  ids, mask = gemma2.tokens(seed, model.vocab_size)
  with torch.no_grad():
    want = loaded(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
  assert (
    ledger.relative_error(
      references.apply(model, {'params': params}, ids, mask), want[0]
    )
    <= 1e-5
  )


def test_the_published_size_has_the_keys_and_shapes_of_transformers():
  model = Gemma2(**SIZES['gemma2_2b'])
  blank = jax.tree.map(
    lambda s: np.broadcast_to(np.int8(0), s.shape), gemma2.shapes(model)
  )
  got = {k: v.shape for k, v in table.save(weights.RULES, blank).items()}
  with torch.device('meta'):
    theirs = transformers.Gemma2Model(transformers.Gemma2Config())
  assert got == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
