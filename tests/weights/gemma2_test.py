"""Conversion of Gemma-2's tensors and config.json in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.models.gemma2 import Gemma2, SIZES
from sana_jax.weights import gemma2 as weights
from sana_jax.weights import table

pytestmark = pytest.mark.fast

# config.json of google/gemma-2-2b-it as written by transformers 4.
PUBLISHED = dict(
  architectures=['Gemma2ForCausalLM'],
  attention_bias=False,
  attention_dropout=0.0,
  attn_logit_softcapping=50.0,
  bos_token_id=2,
  cache_implementation='hybrid',
  eos_token_id=[1, 107],
  final_logit_softcapping=30.0,
  head_dim=256,
  hidden_act='gelu_pytorch_tanh',
  hidden_activation='gelu_pytorch_tanh',
  hidden_size=2304,
  initializer_range=0.02,
  intermediate_size=9216,
  max_position_embeddings=8192,
  model_type='gemma2',
  num_attention_heads=8,
  num_hidden_layers=26,
  num_key_value_heads=4,
  pad_token_id=0,
  query_pre_attn_scalar=256,
  rms_norm_eps=1e-06,
  rope_theta=10000.0,
  sliding_window=4096,
  torch_dtype='bfloat16',
  use_cache=True,
  vocab_size=256000,
)
TINY = dict(
  vocab_size=9,
  width=8,
  depth=2,
  heads=2,
  kv_heads=1,
  head_dim=4,
  hidden=6,
  query_scale=4,
  layer_types=('full', 'sliding'),
)


def tiny_params():
  model = Gemma2(**TINY)
  shapes = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2), jnp.int32),
    jnp.ones((1, 2), bool),
  )['params']
  rng = np.random.default_rng()
  fill = lambda s: rng.normal(size=s.shape).astype(s.dtype)
  return shapes, jax.tree.map(fill, shapes)


def test_the_published_config_is_the_named_size():
  fields = weights.fields_from_transformers(PUBLISHED)
  assert Gemma2(**fields) == Gemma2(**SIZES['gemma2_2b'])


def test_fields_survive_the_round_trip_to_transformers():
  config = weights.transformers_config(TINY, dtype='bfloat16')
  assert Gemma2(**weights.fields_from_transformers(config)) == Gemma2(**TINY)
  assert config['layer_types'] == ['full_attention', 'sliding_attention']
  assert config['torch_dtype'] == 'bfloat16'
  other = dict(TINY, rope_theta=500.0, final_softcap=20.0)
  again = weights.fields_from_transformers(weights.transformers_config(other))
  assert Gemma2(**again) == Gemma2(**other)


@pytest.mark.parametrize(
  'key, setting, value',
  [
    ('model_type', 'gemma', 'gemma'),
    ('attention_bias', True, True),
    ('use_bidirectional_attention', True, True),
    ('attn_logit_softcapping', None, None),
    ('hidden_size', 'wide', 'wide'),
    ('layer_types', ['full_attention'], 1),
  ],
)
def test_a_config_of_another_model_is_refused(key, setting, value):
  with pytest.raises(UserError) as error:
    weights.fields_from_transformers(PUBLISHED | {key: setting})
  assert (error.value.key, error.value.value) == (key, value)


def test_another_kind_of_rope_is_refused():
  rope = dict(rope_type='yarn')
  with pytest.raises(UserError) as error:
    weights.fields_from_transformers(PUBLISHED | dict(rope_parameters=rope))
  assert (error.value.key, error.value.value) == ('rope_type', 'yarn')
  assert error.value.allowed == ('default',)


def test_sizes_that_transformers_does_not_support_are_refused():
  with pytest.raises(UserError) as error:
    weights.transformers_config(dict(TINY, heads=3))
  assert (error.value.key, error.value.value) == ('width', TINY['width'])
  assert error.value.allowed == 'multiples of 3'


def test_weights_survive_the_round_trip_from_both_kinds_of_file():
  shapes, params = tiny_params()
  saved = table.save(weights.RULES, params)
  assert len(saved) == 2 + 2 * 11
  assert saved['layers.1.mlp.down_proj.weight'].shape == (8, 6)
  np.testing.assert_array_equal(
    saved['layers.1.self_attn.q_proj.weight'].T,
    params['layers']['query']['kernel'][1],
  )
  causal = {f'model.{k}': v for k, v in saved.items()}
  causal['lm_head.weight'] = saved['embed_tokens.weight']
  for tensors in saved, causal:
    loaded = table.load(weights.RULES, weights.model_tensors(tensors), shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_an_untied_head_is_refused():
  _, params = tiny_params()
  tensors = table.save(weights.RULES, params)
  tensors['lm_head.weight'] = tensors['embed_tokens.weight'] + 1
  with pytest.raises(UserError) as error:
    weights.model_tensors(tensors)
  assert error.value.key == 'lm_head.weight'
