"""The text encoder against transformers, the prompt path against diffusers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sana_jax.models.gemma2 import Gemma2, SIZES
from sana_jax.text import encode, tokenizer
from sana_jax.text.prompts import INSTRUCTION, INSTRUCTION_LINES
from sana_jax.weights import gemma2 as weights
from sana_jax.weights import table

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
diffusers = pytest.importorskip('diffusers')

BASE = dict(
  vocab_size=320, hidden_size=32, intermediate_size=56, num_hidden_layers=3,
  num_attention_heads=4, num_key_value_heads=2, head_dim=12,
  query_pre_attn_scalar=9, sliding_window=64)
VARIANTS = {
  'base': {},
  'sliding': dict(sliding_window=5),
  'full_first': dict(sliding_window=5, layer_types=[
    'full_attention', 'sliding_attention', 'sliding_attention']),
  'caps': dict(attn_logit_softcapping=2., final_logit_softcapping=3.),
  'one_kv_head': dict(num_key_value_heads=1, rms_norm_eps=1e-3),
  'theta': dict(rope_parameters=dict(rope_type='default', rope_theta=100.)),
}
PROMPTS = [' A red circle left of a Blue square', 'two stars', '',
           'naïve 你好 🎉 ' + 'star ' * 60]


def reference(**changes):
  """transformers' causal LM with random values in every parameter."""
  torch.manual_seed(np.random.SeedSequence().generate_state(1).item())
  model = transformers.Gemma2ForCausalLM(
    transformers.Gemma2Config(**{**BASE, **changes})).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(torch.randn_like(p) * (0.5 if p.ndim == 1 else 0.2))
  return model


def ours(config, tensors):
  model = Gemma2(**weights.fields_from_transformers(config))
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32),
    jnp.ones((1, 2), bool))['params']
  return model, table.load(
    weights.RULES, weights.model_tensors(tensors), shapes)


def converted(model):
  return ours(model.config.to_dict(),
              {k: v.float().numpy() for k, v in model.state_dict().items()})


def tokens_and_mask(length=17):
  ids = np.random.default_rng().integers(3, BASE['vocab_size'], (3, length))
  mask = np.arange(length) < np.array([[length], [9], [1]])
  return np.where(mask, ids, 0).astype(np.int32), mask


def run(model, params, ids, mask, method='__call__'):
  apply = jax.jit(model.apply, static_argnames='method')
  return apply({'params': params}, ids, mask, method=method)


def relative_error(got, want):
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize('variant', VARIANTS)
def test_hidden_states_and_logits_are_those_of_transformers(variant):
  theirs = reference(**VARIANTS[variant])
  model, params = converted(theirs)
  ids, mask = tokens_and_mask()
  with torch.no_grad():
    want = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask).long(),
                  output_hidden_states=True)
  states = run(model, params, ids, mask, 'hidden_states')
  assert len(states) == len(want.hidden_states)
  errors = [relative_error(a, b) for a, b in zip(states, want.hidden_states)]
  errors.append(relative_error(
    run(model, params, ids, mask, 'logits'), want.logits))
  assert max(errors) <= 1e-5


def cast(model, dtype):
  """Parameters only: `.to` would round the table of rotary frequencies too."""
  for p in model.parameters():
    p.data = p.data.to(dtype)
  return model


def test_bfloat16_is_no_worse_than_transformers_own():
  theirs = cast(reference(num_hidden_layers=6), torch.bfloat16)
  model, params = converted(theirs)
  ids, mask = tokens_and_mask()
  inputs = dict(input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask).long())
  with torch.no_grad():
    half = theirs.model(**inputs)[0].float().numpy()
    exact = cast(theirs, torch.float32).model(**inputs)[0].numpy()
  got = run(model.clone(dtype=jnp.bfloat16), params, ids, mask)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
  stored_half = run(model.clone(dtype=jnp.bfloat16), params, ids, mask)
  # Two roundings of one result differ by chance: a tenth is allowed for it.
  bound = 1.1 * relative_error(half, exact)
  assert relative_error(got, exact) <= bound
  assert relative_error(stored_half, exact) <= bound


def test_weights_survive_the_round_trip_byte_for_byte():
  theirs = reference()
  _, params = converted(theirs)
  saved = table.save(weights.RULES, params)
  want = {k: v.numpy() for k, v in theirs.model.state_dict().items()}
  assert saved.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)


def test_transformers_loads_an_exported_folder(tmp_path):
  theirs = reference(**VARIANTS['full_first'])
  model, params = converted(theirs)
  fields = weights.fields_from_transformers(theirs.config.to_dict())
  (tmp_path / 'config.json').write_text(
    json.dumps(weights.transformers_config(fields)))
  safetensors.numpy.save_file(
    table.save(weights.RULES, params), tmp_path / 'model.safetensors',
    metadata={'format': 'pt'})
  loaded, info = transformers.Gemma2Model.from_pretrained(
    tmp_path, output_loading_info=True)
  assert not any(info.values())
  assert type(transformers.AutoModel.from_pretrained(tmp_path)) is type(loaded)
  public = theirs.config.to_dict()
  ignored = 'architectures', 'dtype', '_name_or_path'
  got = loaded.config.to_dict()
  assert {k: got[k] for k in public if k not in ignored} == {
    k: v for k, v in public.items() if k not in ignored}
  ids, mask = tokens_and_mask()
  with torch.no_grad():
    want = loaded(torch.tensor(ids), attention_mask=torch.tensor(mask).long())
  assert relative_error(run(model, params, ids, mask), want[0]) <= 1e-5


def test_the_published_size_has_the_keys_and_shapes_of_transformers():
  model = Gemma2(**SIZES['gemma2_2b'])
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32),
    jnp.ones((1, 2), bool))['params']
  blank = jax.tree.map(
    lambda s: np.broadcast_to(np.int8(0), s.shape), shapes)
  got = {k: v.shape for k, v in table.save(weights.RULES, blank).items()}
  with torch.device('meta'):
    theirs = transformers.Gemma2Model(transformers.Gemma2Config())
  assert got == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}


@pytest.fixture(scope='module')
def pipeline():
  """diffusers' pipeline with nothing but a tokenizer and a text encoder."""
  words = tokenizer.train([INSTRUCTION, *(p.lower() for p in PROMPTS)], 450)
  theirs = reference(vocab_size=450).model
  return diffusers.SanaPipeline(
    words, theirs, vae=None, transformer=None, scheduler=None)


@pytest.mark.parametrize('instruction', [INSTRUCTION, ''],
                         ids=['instruction', 'plain'])
def test_embeddings_and_masks_are_those_of_diffusers(pipeline, instruction):
  model, params = converted(pipeline.text_encoder)
  with torch.no_grad():
    want = pipeline.encode_prompt(
      PROMPTS, negative_prompt='Blurry star', max_sequence_length=30,
      device='cpu',
      complex_human_instruction=INSTRUCTION_LINES if instruction else None)
  states, mask, negative, negative_mask = (x.numpy() for x in want)
  got, got_mask = encode.encode(
    model, params, pipeline.tokenizer, PROMPTS, instruction=instruction,
    length=30)
  np.testing.assert_array_equal(got_mask, mask.astype(bool))
  assert relative_error(got, states) <= 1e-5
  got, got_mask = encode.encode(
    model, params, pipeline.tokenizer, ['Blurry star'] * len(PROMPTS),
    length=30)
  np.testing.assert_array_equal(got_mask, negative_mask.astype(bool))
  assert relative_error(got, negative) <= 1e-5
