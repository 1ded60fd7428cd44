"""SANA-Sprint's discriminator and its losses, with PyTorch's own layers.

diffusers has none. Spectral norms are `torch.nn.utils.spectral_norm`, and norms
`torch.nn.functional.batch_norm` or `layer_norm`.
"""

from collections.abc import Callable, Iterable
import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
  """Norm of [b c n], over parts of the batch or over channels."""

  def __init__(self, kind: str, width: int):
    super().__init__()
    self.kind = kind
    self.weight = nn.Parameter(torch.ones(width))
    self.bias = nn.Parameter(torch.zeros(width))

  def forward(self, x):
    weights = self.weight, self.bias
    if self.kind == 'layer':
      return F.layer_norm(x.mT, self.weight.shape, *weights, 1e-5).mT
    groups = x.chunk(math.ceil(len(x) / 8))
    return torch.cat(
      [
        F.batch_norm(x, None, None, *weights, training=True, eps=1e-5)
        for x in groups
      ]
    )


class Head(nn.Module):
  """Logits [b n] of tokens [b n c]; in training, each call iterates."""

  def __init__(self, width: int, norm: str = 'batch', spectral: bool = True):
    super().__init__()
    self.norm, self.spectral = norm, spectral
    sizes = {'first': (width, 1), 'second': (width, 9), 'out': (1, 1)}
    for name, (features, size) in sizes.items():
      conv = nn.Conv1d(
        width, features, size, padding=size // 2, padding_mode='circular'
      )
      if spectral:
        conv = torch.nn.utils.spectral_norm(conv, eps=1e-12)
      self.add_module(name, conv)
    self.first_norm, self.second_norm = Norm(norm, width), Norm(norm, width)

  def forward(self, x):
    x = F.leaky_relu(self.first_norm(self.first(x.mT)), 0.2)
    y = F.leaky_relu(self.second_norm(self.second(x)), 0.2)
    return self.out((y + x) / 2**0.5)[:, 0]

  def convolutions(self) -> dict[str, nn.Module]:
    """The head's convolutions by name."""
    return {name: getattr(self, name) for name in ('first', 'second', 'out')}


def params(head: Head, value: Callable = lambda x: x) -> dict[str, Any]:
  """Tree of a head's parameters; `value` gives each tensor, or its gradient."""
  array = lambda x: value(x).detach().numpy().copy()
  tree = {}
  for name, conv in head.convolutions().items():
    weight = conv.weight_orig if head.spectral else conv.weight
    # [o c k] -> [k c o].
    tree[name] = {'kernel': array(weight).transpose(2, 1, 0).copy()}
    # sana_jax has no biases before a batch norm, which removes them.
    if name == 'out' or head.norm == 'layer':
      tree[name]['bias'] = array(conv.bias)
  for name in ('first_norm', 'second_norm'):
    norm = getattr(head, name)
    tree[name] = {'scale': array(norm.weight), 'bias': array(norm.bias)}
  return tree


def gradient(x: torch.Tensor) -> torch.Tensor:
  """A parameter's gradient; zeros if nothing depends on it."""
  return torch.zeros_like(x) if x.grad is None else x.grad


def vectors(head: Head) -> dict[str, dict[str, np.ndarray]]:
  """Vectors of the spectral norms of a head."""
  return {
    name: {
      'u': conv.weight_u.numpy().copy(),
      'v': conv.weight_v.numpy().reshape(conv.in_channels, -1).T.copy(),
    }
    for name, conv in head.convolutions().items()
  }


def named(trees: Iterable[Any]) -> dict[str, Any]:
  """Trees of several heads under sana_jax's names."""
  return {f'head_{i}': tree for i, tree in enumerate(trees)}


def _entropy(x, label):
  return F.binary_cross_entropy_with_logits(x, torch.full_like(x, label))


def _hinge(real, fake):
  return 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())


# (generator's of fakes, discriminator's of real ones and fakes).
LOSSES = {
  'hinge': (lambda fake: -fake.mean(), _hinge),
  'cross_entropy': (
    lambda fake: _entropy(fake, 1.0),
    lambda real, fake: _entropy(real, 1.0) + _entropy(fake, 0.0),
  ),
}


def penalty(
  heads: Iterable[Head], features: Iterable[torch.Tensor]
) -> torch.Tensor:
  """R1: mean over heads and examples of the squared gradients."""
  terms = []
  for head, x in zip(heads, features):
    logits = head(x)
    (g,) = torch.autograd.grad(
      logits, x, torch.ones_like(logits), create_graph=True
    )
    terms.append((g.flatten(1).norm(dim=1) ** 2).mean())
  return sum(terms) / len(terms)
