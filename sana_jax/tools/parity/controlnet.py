"""Parity of the ControlNet with diffusers' SanaControlNetModel.

In diffusers' wiring and the official one (models/controlnet.py), which uses
diffusers' blocks in the order of NVIDIA's SanaMSControlNet.forward, with
embeddings shared by both models.
"""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.models.controlnet import first_block
from sana_jax.tools.parity.ledger import bfloat16, Case, MODULE, relative_error
from sana_jax.weights import controlnet, kinds, table

_TINY = dict(
  in_channels=4,
  out_channels=4,
  num_attention_heads=4,
  attention_head_dim=16,
  num_cross_attention_heads=2,
  cross_attention_head_dim=32,
  cross_attention_dim=64,
  caption_channels=12,
  sample_size=8,
)
_DEPTH, _OUTPUTS = 4, 3
_NORMED = 'QK-norm'
_BLOCKS = "diffusers, with its transformer's blocks"
_VARIANTS = {
  'plain': {},
  'patches of 2, with positions': dict(patch_size=2, interpolation_scale=2.0),
  'affine norms and biases': dict(
    norm_elementwise_affine=True, attention_bias=True
  ),
  _NORMED: dict(qk_norm='rms_norm_across_heads'),
}


def cases() -> list[Case]:
  """Cases of each output, then of the transformer that takes them."""
  case = lambda what, measure, dtype='float32', against='diffusers': Case(
    'controlnet', what, 'tiny', dtype, MODULE, measure, against=against
  )
  return [
    *(
      case(
        f'output {k}, {variant}',
        functools.partial(_output, variant, k),
        against=_BLOCKS if variant == _NORMED else 'diffusers',
      )
      for variant in _VARIANTS
      for k in range(_OUTPUTS)
    ),
    case('outputs, scaled by 0.7', _scaled),
    case('transformer, given outputs', _given),
    case('transformer with ControlNet', _both),
    case(
      'transformer with ControlNet, official wiring',
      _official,
      against="official, of diffusers' blocks",
    ),
    case('outputs', _outputs_bfloat16, 'bfloat16'),
    case('transformer with ControlNet', _both_bfloat16, 'bfloat16'),
    case(
      'transformer with ControlNet, official rounded times',
      _rounded_bfloat16,
      'bfloat16',
    ),
  ]


class _Setup:
  """Both diffusers models with random weights, and their inputs."""

  def __init__(self, seed, variant='plain', shared=False):
    rng = torch.Generator().manual_seed(seed)
    config = _TINY | _VARIANTS[variant]
    self.normed = variant == _NORMED
    self.theirs = {
      'transformer': diffusers.SanaTransformer2DModel(
        **config, num_layers=_DEPTH
      ).eval(),
      'controlnet': _controlnet(config).eval(),
    }
    with torch.no_grad():
      for model in self.theirs.values():
        for name, p in model.named_parameters():
          p.copy_(_random(name, p.shape, rng))
    if shared:
      self.theirs['controlnet'].load_state_dict(
        {
          k: v
          for k, v in self.theirs['transformer'].state_dict().items()
          if k.startswith(('patch_embed', 'time_embed', 'caption'))
        },
        strict=False,
      )
    draw = lambda *shape: torch.randn(shape, generator=rng)
    self.latents, self.control = draw(2, 4, 4, 6), draw(2, 4, 4, 6)
    self.text = draw(2, 5, 12)
    self.times = torch.tensor([999.0, 136.0])
    self.mask = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])

  def cast(self, dtype):
    """Casts models and inputs, but not times, as in pipelines."""
    for model in self.theirs.values():
      torch.nn.Module.to(model, dtype)  # Avoids diffusers' warning.
    for name in ('latents', 'control', 'text'):
      setattr(self, name, getattr(self, name).to(dtype))

  def ours(self, part, dtype=jnp.float32):
    """(module, variables) through the weight maps."""
    model = self.theirs[part]
    config = dict(model.config)
    if part == 'controlnet':
      config['_class_name'] = controlnet.class_name(self.normed)
    kind = kinds.PARTS[part]
    module = kind.module(config, dtype)
    tensors = {k: v.float().numpy() for k, v in model.state_dict().items()}
    return module, table.load(
      kind.rules(module), tensors, kind.shapes(module), dtype
    )

  def inputs(self):
    """(latents, times, text, mask) for sana_jax's models, and the control."""
    image = lambda x: jnp.asarray(x.float().permute(0, 2, 3, 1).numpy())
    return (
      image(self.latents),
      jnp.asarray(self.times.numpy()),
      jnp.asarray(self.text.float().numpy()),
      jnp.asarray(self.mask.numpy() > 0),
    ), image(self.control)

  @torch.no_grad()
  def their_outputs(self, scale=1.0, times=None):
    times = self.times if times is None else times
    return self.theirs['controlnet'](
      self.latents,
      self.text,
      times,
      self.control,
      conditioning_scale=scale,
      encoder_attention_mask=self.mask,
      return_dict=False,
    )[0]

  @torch.no_grad()
  def their_velocity(self, outputs, times=None):
    times = self.times if times is None else times
    return _image(
      self.theirs['transformer'](
        self.latents,
        self.text,
        times,
        encoder_attention_mask=self.mask,
        controlnet_block_samples=outputs,
      ).sample
    )

  def our_outputs(self, dtype=jnp.float32, scale=1.0, **how):
    net, variables = self.ours('controlnet', dtype)
    (latents, times, text, mask), control = self.inputs()
    return _float32(
      jax.jit(net.clone(**how).apply)(
        variables, latents, times, text, control, mask, scale
      )
    )

  def our_velocity(self, outputs, dtype=jnp.float32, **how):
    model, variables = self.ours('transformer', dtype)
    inputs, _ = self.inputs()
    return _float32(
      jax.jit(model.clone(**how).apply)(
        variables, *inputs, control=jnp.asarray(outputs)
      )
    )


def _controlnet(config):
  """diffusers' net; with `qk_norm`, which it lacks, of a transformer's blocks.

  Its forward only calls the blocks, whatever is in them.
  """
  fields = {k: x for k, x in config.items() if k != 'qk_norm'}
  net = diffusers.SanaControlNetModel(**fields, num_layers=_OUTPUTS)
  if 'qk_norm' in config:
    blocks = diffusers.SanaTransformer2DModel(**config, num_layers=_OUTPUTS)
    net.transformer_blocks = blocks.transformer_blocks
  return net


def _random(name, shape, rng):
  """Values that affect the output and keep activations near one.

  Larger values amplify rounding, which would dominate bfloat16 errors.
  """
  x = torch.randn(shape, generator=rng)
  if 'norm' in name and name.endswith('weight'):
    return 1 + 0.2 * x
  return x * (0.2 if len(shape) == 1 else shape[1:].numel() ** -0.5)


def _image(x):
  return x.float().permute(0, 2, 3, 1).numpy()


def _float32(x):
  return np.asarray(x.astype(jnp.float32))


def _stack(outputs):
  """diffusers' list of [b n d] as one array [l b n d]."""
  return np.stack([x.float().numpy() for x in outputs])


def _output(variant, k, seed):
  s = _Setup(seed, variant)
  got = s.our_outputs()
  return relative_error(got[k], _stack(s.their_outputs())[k])


def _scaled(seed):
  s = _Setup(seed)
  got = s.our_outputs(scale=0.7)
  return relative_error(got, _stack(s.their_outputs(0.7)))


def _given(seed):
  s = _Setup(seed)
  outputs = s.their_outputs()
  ours = s.our_velocity(_stack(outputs))
  return relative_error(ours, s.their_velocity(outputs))


def _both(seed):
  s = _Setup(seed)
  return relative_error(
    s.our_velocity(s.our_outputs()), s.their_velocity(s.their_outputs())
  )


def _official(seed):
  s = _Setup(seed, shared=True)
  inputs, control = s.inputs()
  model, variables = s.ours('transformer')
  net, net_variables = s.ours('controlnet')

  @jax.jit
  def run(variables, net_variables):
    latents, times, text, mask = inputs
    start = first_block(model, variables, *inputs)
    outputs = net.apply(
      net_variables, latents, times, text, control, mask, start=start
    )
    return model.clone(control_after=0).apply(
      variables, *inputs, control=outputs
    )

  return relative_error(run(variables, net_variables), _official_velocity(s))


def _official_velocity(s):
  out = official_velocity(
    s.theirs['transformer'],
    s.theirs['controlnet'],
    s.latents,
    s.control,
    s.text,
    s.times,
    s.mask,
  )
  return _image(out)


@torch.no_grad()
def official_velocity(base, net, latents, control, text, times, mask):
  """Velocity with NVIDIA's order of blocks, of diffusers' models.

  Patches have a side of 1, and both models the same embeddings.
  """
  count, _, height, width = latents.shape
  x, c = base.patch_embed(latents), base.patch_embed(control)
  modulation, time = base.time_embed(
    times, batch_size=count, hidden_dtype=x.dtype
  )
  text = base.caption_norm(base.caption_projection(text))
  bias = ((1 - mask) * -10_000.0)[:, None]
  run = lambda block, x: block(x, None, text, bias, modulation, height, width)
  x = run(base.transformer_blocks[0], x)
  c = x + net.input_block(c)
  for i, block in enumerate(base.transformer_blocks[1:]):
    if i < len(net.transformer_blocks):
      c = run(net.transformer_blocks[i], c)
      x = x + net.controlnet_blocks[i](c)
    x = run(block, x)
  out = base.proj_out(base.norm_out(x, time, base.scale_shift_table))
  return out.reshape(count, height, width, -1).permute(0, 3, 1, 2)


def _outputs_bfloat16(seed):
  s = _Setup(seed)
  got = s.our_outputs(jnp.bfloat16)
  want = _stack(s.their_outputs())
  s.cast(torch.bfloat16)
  return bfloat16('sana', got, _stack(s.their_outputs()), want)


def _both_bfloat16(seed):
  s = _Setup(seed)
  got = s.our_velocity(s.our_outputs(jnp.bfloat16), jnp.bfloat16)
  want = s.their_velocity(s.their_outputs())
  s.cast(torch.bfloat16)
  return bfloat16('sana', got, s.their_velocity(s.their_outputs()), want)


def _rounded_bfloat16(seed):
  """Error with times rounded in both models: 999 becomes 1000, 136 stays."""
  s = _Setup(seed)
  how = dict(rounded_timesteps=True)
  got = s.our_velocity(s.our_outputs(jnp.bfloat16, **how), jnp.bfloat16, **how)
  times = torch.tensor([1000.0, 136.0])
  want = s.their_velocity(s.their_outputs(times=times), times)
  s.cast(torch.bfloat16)
  theirs = s.their_velocity(s.their_outputs(times=times), times)
  return bfloat16('sana', got, theirs, want)
