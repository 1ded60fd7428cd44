"""diffusers' transformer in float64 throughout, for gradients and tangents.

diffusers fixes float32 for sinusoids, norms and the linear attention; these
parts are replaced by their definitions. The cross-attention is diffusers' own,
with PyTorch's `math` backend, which has a forward mode.
"""

from collections.abc import Sequence
import contextlib
import math
from typing import Any

from diffusers.models import embeddings, normalization
import torch
from torch import nn
from torch.nn.attention import sdpa_kernel, SDPBackend


class Sinusoids(nn.Module):
  """Sinusoids [cos | sin] of times [b], 256 of them."""

  def forward(self, t):
    steps = torch.arange(128, dtype=torch.float64) / 128
    angles = t[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class RmsNorm(nn.Module):
  """RMS norm with a scale."""

  def __init__(self, weight: nn.Parameter, eps: float):
    super().__init__()
    self.weight, self.eps = weight, eps

  def forward(self, x):
    mean = x.pow(2).mean(-1, keepdim=True)
    return x / torch.sqrt(mean + self.eps) * self.weight


def attend(attention: Any, x: torch.Tensor, **_: Any) -> torch.Tensor:
  """Linear attention as a processor: weights relu(q) relu(k) over their sum."""
  split = lambda x: x.unflatten(-1, (attention.heads, -1))
  q, k = attention.to_q(x), attention.to_k(x)
  if attention.norm_q is not None:
    q, k = attention.norm_q(q), attention.norm_k(k)
  q, k = split(q).relu(), split(k).relu()
  weights = torch.einsum('bnhk,bmhk->bhnm', q, k)
  weights = weights / (weights.sum(-1, keepdim=True) + 1e-15)
  v = split(attention.to_v(x))
  out = torch.einsum('bhnm,bmhk->bnhk', weights, v).flatten(2)
  return attention.to_out[0](out)


def doubled(model: nn.Module) -> nn.Module:
  """Casts a SanaTransformer2DModel to float64, in place."""
  model.double()
  for name, module in list(model.named_modules()):
    other = None
    if isinstance(module, embeddings.Timesteps):
      other = Sinusoids()
    elif isinstance(module, normalization.RMSNorm):
      other = RmsNorm(module.weight, module.eps)
    if other is not None:
      parent, _, last = name.rpartition('.')
      setattr(model.get_submodule(parent), last, other)
  for block in model.transformer_blocks:
    block.attn1.processor = attend
  return model


def call(
  model: nn.Module,
  x: torch.Tensor,
  timestep: torch.Tensor,
  text: torch.Tensor,
  mask: torch.Tensor,
  guidance: torch.Tensor | None = None,
  kept: Sequence[str] = (),
) -> tuple[torch.Tensor, list[Any]]:
  """Velocity [b c y x], and outputs of the `kept` parts."""
  found = {}

  def keep(name):
    def hook(module, args, output):
      found[name] = output

    return hook

  with contextlib.ExitStack() as stack:
    for name in kept:
      handle = model.get_submodule(name).register_forward_hook(keep(name))
      stack.callback(handle.remove)
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    (velocity,) = model(
      x,
      text,
      timestep,
      guidance=guidance,
      encoder_attention_mask=mask,
      return_dict=False,
    )
  return velocity, [found[name] for name in kept]
