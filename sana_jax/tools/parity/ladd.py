"""Parity of SANA-Sprint's discriminator with its definition in PyTorch.

diffusers has none: heads and losses are written here with torch's own layers,
`torch.nn.utils.spectral_norm` and `torch.nn.functional.batch_norm`.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sana_jax.models import ladd
from sana_jax.objectives import latent_adversarial
from sana_jax.tools.parity.ledger import Case, MODULE, relative_error
from sana_jax.tools.parity.references import randomise

_WIDTH, _TOKENS, _HEADS, _STEPS = 12, 15, 2, 3
_CONVOLUTIONS = {'first': (_WIDTH, 1), 'second': (_WIDTH, 9), 'out': (1, 1)}


class _Setup(NamedTuple):
  what: str
  fields: dict
  examples: int


_SETUPS = (
  _Setup('two virtual batches', {}, 16),
  _Setup('virtual batches of 7, 7 and 6', {}, 20),
  _Setup('layer norm', dict(norm='layer'), 4),
  _Setup(
    'layer norm without spectral norm', dict(norm='layer', spectral=False), 4
  ),
)


def cases() -> list[Case]:
  """Cases of heads, of power iterations, and of losses with gradients."""
  case = functools.partial(
    Case, 'ladd', size='tiny', dtype='float32', bound=MODULE, against='PyTorch'
  )
  measures = {
    'logits': _logits,
    'gradients': _gradients,
    'R1 penalty and its gradient': _penalty,
  }
  return [
    case('spectral norm, 3 iterations', measure=_iterations),
    *(
      case(f'{name}, {setup.what}', measure=functools.partial(measure, setup))
      for name, measure in measures.items()
      for setup in _SETUPS
    ),
    *(
      case(f'{name}: losses and gradients', measure=measure)
      for name, measure in (
        ('hinge', functools.partial(_losses, 'hinge')),
        ('cross entropy', functools.partial(_losses, 'cross_entropy')),
      )
    ),
  ]


class _Norm(nn.Module):
  """Norm of [b c n], over parts of the batch or over channels."""

  def __init__(self, kind):
    super().__init__()
    self.kind = kind
    self.weight = nn.Parameter(torch.ones(_WIDTH))
    self.bias = nn.Parameter(torch.zeros(_WIDTH))

  def forward(self, x):
    if self.kind == 'layer':
      return F.layer_norm(x.mT, (_WIDTH,), self.weight, self.bias, 1e-5).mT
    groups = x.chunk(math.ceil(len(x) / 8))
    return torch.cat(
      [
        F.batch_norm(
          x, None, None, self.weight, self.bias, training=True, eps=1e-5
        )
        for x in groups
      ]
    )


class _Head(nn.Module):
  """Logits [b n] of tokens [b n c]; in training, each call iterates."""

  def __init__(self, norm='batch', spectral=True):
    super().__init__()
    for name, (width, size) in _CONVOLUTIONS.items():
      conv = nn.Conv1d(
        _WIDTH, width, size, padding=size // 2, padding_mode='circular'
      )
      if spectral:
        conv = torch.nn.utils.spectral_norm(conv, eps=1e-12)
      self.add_module(name, conv)
    self.first_norm, self.second_norm = _Norm(norm), _Norm(norm)

  def forward(self, x):
    x = F.leaky_relu(self.first_norm(self.first(x.mT)), 0.2)
    y = F.leaky_relu(self.second_norm(self.second(x)), 0.2)
    return self.out((y + x) / 2**0.5)[:, 0]


def _kernel(weight):
  """[o c k] -> [k c o]."""
  return weight.detach().numpy().transpose(2, 1, 0).copy()


def _params(head, value: Callable, fields):
  """Tree of a head's parameters; `value` gives each tensor, or its gradient."""
  tree = {}
  for name in _CONVOLUTIONS:
    conv = getattr(head, name)
    weight = conv.weight_orig if fields.get('spectral', True) else conv.weight
    tree[name] = {'kernel': _kernel(value(weight))}
    # sana_jax has no biases before a batch norm, which removes them.
    if name == 'out' or fields.get('norm') == 'layer':
      tree[name]['bias'] = value(conv.bias).detach().numpy().copy()
  for name in ('first_norm', 'second_norm'):
    norm = getattr(head, name)
    tree[name] = {
      'scale': value(norm.weight).detach().numpy().copy(),
      'bias': value(norm.bias).detach().numpy().copy(),
    }
  return tree


def _spectral(head):
  return {
    name: {
      'u': conv.weight_u.numpy().copy(),
      'v': conv.weight_v.numpy().reshape(_WIDTH, -1).T.copy(),
    }
    for name in _CONVOLUTIONS
    for conv in [getattr(head, name)]
  }


def _named(trees):
  return {f'head_{i}': tree for i, tree in enumerate(trees)}


class _Made(NamedTuple):
  """Heads of both sides with the same weights and vectors."""

  theirs: list
  ours: ladd.Heads
  variables: dict
  features: list


def _made(setup, seed):
  """Heads whose vectors are those after one iteration."""
  torch.manual_seed(seed)
  theirs = [randomise(_Head(**setup.fields)) for _ in range(_HEADS)]
  features = [
    torch.randn(setup.examples, _TOKENS, _WIDTH, requires_grad=True)
    for _ in theirs
  ]
  for head, x in zip(theirs, features):
    head.train()(x)
    head.eval()
  params = [_params(head, lambda x: x, setup.fields) for head in theirs]
  variables = {'params': _named(params)}
  if setup.fields.get('spectral', True):
    variables['spectral'] = _named(map(_spectral, theirs))
  return _Made(theirs, ladd.Heads(**setup.fields), variables, features)


def _arrays(tensors):
  return tuple(jnp.asarray(x.detach().numpy()) for x in tensors)


def _worst(got, want):
  """Largest error of two trees' arrays."""
  return max(
    jax.tree.leaves(
      jax.tree.map(lambda g, w: relative_error(g, np.asarray(w)), got, want)
    )
  )


def _scores(made):
  return torch.cat([h(x) for h, x in zip(made.theirs, made.features)], dim=1)


def _logits(setup, seed):
  made = _made(setup, seed)
  got = jax.jit(made.ours.apply)(made.variables, _arrays(made.features))
  return relative_error(got, _scores(made).detach())


def _gradient(x):
  """A parameter's gradient; zeros if nothing depends on it."""
  return torch.zeros_like(x) if x.grad is None else x.grad


def _their_gradients(made, setup):
  return _named(_params(head, _gradient, setup.fields) for head in made.theirs)


def _gradients(setup, seed):
  """Gradients by parameters and features of randomly weighted logits."""
  made = _made(setup, seed)
  logits = _scores(made)
  weights = torch.randn(logits.shape)
  (weights * logits).sum().backward()

  def loss(params, features):
    variables = made.variables | {'params': params}
    logits = made.ours.apply(variables, features)
    return jnp.sum(weights.numpy() * logits)

  got = jax.jit(jax.grad(loss, (0, 1)))(
    made.variables['params'], _arrays(made.features)
  )
  by_features = tuple(x.grad.numpy() for x in made.features)
  return _worst(got, (_their_gradients(made, setup), by_features))


def _penalty(setup, seed):
  """R1 of each head's input, and its gradient by the parameters."""
  made, total = _made(setup, seed), 0.0
  for head, x in zip(made.theirs, made.features):
    logits = head(x)
    (g,) = torch.autograd.grad(
      logits, x, torch.ones_like(logits), create_graph=True
    )
    total = total + (g.flatten(1).norm(dim=1) ** 2).mean() / _HEADS
  total.backward()

  def penalty(params, features):
    variables = made.variables | {'params': params}
    return latent_adversarial.gradient_penalty(
      functools.partial(made.ours.apply, variables), features
    )

  got, gradients = jax.jit(jax.value_and_grad(penalty))(
    made.variables['params'], _arrays(made.features)
  )
  want = _their_gradients(made, setup)
  return max(relative_error(got, total.detach()), _worst(gradients, want))


def _iterations(seed):
  """Vectors after further calls, each with one iteration."""
  made = _made(_SETUPS[0], seed)
  spectral = made.variables['spectral']
  for _ in range(_STEPS):
    spectral = jax.jit(ladd.renewed)(made.variables['params'], spectral)
    for head, x in zip(made.theirs, made.features):
      head.train()(x)
  return _worst(spectral, _named(map(_spectral, made.theirs)))


def _hinge(real, fake):
  return 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())


def _losses(kind, seed):
  """Of both players, with 3 real examples and 5 fakes."""
  torch.manual_seed(seed)
  real, fake = (
    (2 * torch.randn(count, 7)).requires_grad_() for count in (3, 5)
  )
  entropy = lambda x, label: F.binary_cross_entropy_with_logits(
    x, torch.full_like(x, label)
  )
  generator, discriminator = {
    'hinge': (lambda x: -x.mean(), _hinge),
    'cross_entropy': (
      lambda x: entropy(x, 1.0),
      lambda real, fake: entropy(real, 1.0) + entropy(fake, 0.0),
    ),
  }[kind]
  ours = latent_adversarial.LOSSES[kind]
  return max(
    _loss_error(ours.generator, generator, [fake]),
    _loss_error(ours.discriminator, discriminator, [real, fake]),
  )


def _loss_error(ours, theirs, logits):
  """Error of a loss, or of its gradients if that is larger."""
  want = theirs(*logits)
  gradients = torch.autograd.grad(want, logits)
  got = jax.value_and_grad(ours, tuple(range(len(logits))))(*_arrays(logits))
  return _worst(got, (want.detach(), gradients))
