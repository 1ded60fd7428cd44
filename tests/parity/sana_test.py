"""The transformer against diffusers' SanaTransformer2DModel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.sana import Sana
from sana_jax.weights import sana as weights
from sana_jax.weights import table

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

BASE = dict(
  in_channels=4, out_channels=4, num_attention_heads=3, attention_head_dim=8,
  num_layers=3, num_cross_attention_heads=2, cross_attention_head_dim=12,
  cross_attention_dim=24, caption_channels=10, sample_size=8)
VARIANTS = {
  'base': {},
  'qk_norm': dict(qk_norm='rms_norm_across_heads'),
  'position': dict(interpolation_scale=2.0),
  'guidance': dict(guidance_embeds=True, qk_norm='rms_norm_across_heads'),
  'patch': dict(patch_size=2, interpolation_scale=1.0),
  'affine': dict(norm_elementwise_affine=True, attention_bias=True),
  'out_channels': dict(out_channels=6, mlp_ratio=3.0),
}


def reference(config):
  """diffusers' model with random values in every parameter."""
  torch.manual_seed(np.random.SeedSequence().generate_state(1).item())
  model = diffusers.SanaTransformer2DModel(**config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(torch.randn_like(p) * (0.5 if p.ndim == 1 else 0.2))
  return model


def ours(model):
  fields = weights.fields_from_diffusers(dict(model.config))
  module = Sana(**fields)
  tensors = {k: v.numpy() for k, v in model.state_dict().items()}
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 8, 8, fields['in_channels'])),
    jnp.zeros(1), jnp.zeros((1, 5, fields['caption_channels'])),
    guidance=jnp.zeros(1))['params']
  rules = weights.rules(fields['guidance_embeds'])
  return module, table.load(rules, tensors, shapes), rules, tensors


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_velocity_is_that_of_diffusers(variant):
  model = reference({**BASE, **VARIANTS[variant]})
  module, params, *_ = ours(model)
  rng = np.random.default_rng()
  x = rng.normal(size=(2, 4, 6, 8)).astype(np.float32)
  text = rng.normal(size=(2, 5, 10)).astype(np.float32)
  t = np.float32([999, 136])
  mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
  guidance = np.float32([0.45, 0.2]) if variant == 'guidance' else None
  with torch.no_grad():
    want = model(
      torch.tensor(x), torch.tensor(text), torch.tensor(t),
      guidance=None if guidance is None else torch.tensor(guidance),
      encoder_attention_mask=torch.tensor(mask).float(),
    ).sample.permute(0, 2, 3, 1).numpy()
  got = jax.jit(module.apply)(
    {'params': params}, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(t),
    jnp.asarray(text), jnp.asarray(mask),
    None if guidance is None else jnp.asarray(guidance))
  error = np.linalg.norm(got - want) / np.linalg.norm(want)
  assert error <= 1e-5


@pytest.mark.parametrize('variant', VARIANTS)
def test_weights_and_config_survive_the_round_trip(variant):
  model = reference({**BASE, **VARIANTS[variant]})
  _, params, rules, tensors = ours(model)
  saved = table.save(rules, params)
  assert saved.keys() == tensors.keys()
  for key, value in tensors.items():
    np.testing.assert_array_equal(saved[key], value, strict=True)
  fields = weights.fields_from_diffusers(dict(model.config))
  config = weights.diffusers_config(fields)
  again = diffusers.SanaTransformer2DModel.from_config(config)
  public = {k: v for k, v in model.config.items() if k[0] != '_'}
  assert {k: again.config[k] for k in public} == public


@pytest.mark.parametrize('size', ['sana_600m_1024', 'sana_1600m_4k',
                                  'sana15_1600m_1024', 'sana15_4800m_1024'])
def test_published_sizes_have_the_keys_and_shapes_of_diffusers(size):
  from sana_jax import config
  fields = config.SANA_SIZES[size]
  module = Sana(**fields)
  fields = {f: getattr(module, f) for f in module.__dataclass_fields__
            if f not in ('parent', 'name')}
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 32)), jnp.zeros(1),
    jnp.zeros((1, 5, 2304)))['params']
  with torch.device('meta'):
    model = diffusers.SanaTransformer2DModel.from_config(
      weights.diffusers_config(fields))
  want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  tiny = jax.tree.map(
    lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
  got = {k: v.shape for k, v in table.save(weights.rules(), tiny).items()}
  assert got == want
