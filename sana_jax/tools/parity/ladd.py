"""Parity of SANA-Sprint's discriminator with its definition in PyTorch.

The definition is in ladd_heads.py, as diffusers has none.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch

from sana_jax.models import ladd
from sana_jax.objectives import latent_adversarial
from sana_jax.tools.parity import ladd_heads as reference
from sana_jax.tools.parity.ledger import Case, MODULE, relative_error
from sana_jax.tools.parity.references import randomise, worst_error

_WIDTH, _TOKENS, _HEADS, _STEPS = 12, 15, 2, 3


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


class _Made(NamedTuple):
  """Heads of both sides with the same weights and vectors."""

  theirs: list
  ours: ladd.Heads
  variables: dict
  features: list


# Gradients jump at the kink of a LeakyReLU, on whose sides two programs may be.
_FROM_THE_KINK = 1e-5


def _made(setup, seed):
  """Heads whose activations are not at the kink of their LeakyReLU."""
  for number in range(1000):
    made = _drawn(setup, (seed + number) % 2**32)
    if _nearest_kink(made) > _FROM_THE_KINK:
      return made
  raise AssertionError('each draw has an activation at the kink')


def _nearest_kink(made):
  """The smallest absolute value before a LeakyReLU."""
  found = []
  keep = lambda module, inputs, output: found.append(float(output.abs().min()))
  hooks = [
    norm.register_forward_hook(keep)
    for head in made.theirs
    for norm in (head.first_norm, head.second_norm)
  ]
  with torch.no_grad():
    _scores(made)
  for hook in hooks:
    hook.remove()
  return min(found)


def _drawn(setup, seed):
  """Heads whose vectors are those after one iteration."""
  torch.manual_seed(seed)
  theirs = [
    randomise(reference.Head(_WIDTH, **setup.fields)) for _ in range(_HEADS)
  ]
  features = [
    torch.randn(setup.examples, _TOKENS, _WIDTH, requires_grad=True)
    for _ in theirs
  ]
  for head, x in zip(theirs, features):
    head.train()(x)
    head.eval()
  variables = {'params': reference.named(map(reference.params, theirs))}
  if setup.fields.get('spectral', True):
    variables['spectral'] = reference.named(map(reference.vectors, theirs))
  return _Made(theirs, ladd.Heads(**setup.fields), variables, features)


def _arrays(tensors):
  return tuple(jnp.asarray(x.detach().numpy()) for x in tensors)


def _scores(made):
  return torch.cat([h(x) for h, x in zip(made.theirs, made.features)], dim=1)


def _logits(setup, seed):
  made = _made(setup, seed)
  got = jax.jit(made.ours.apply)(made.variables, _arrays(made.features))
  return relative_error(got, _scores(made).detach())


def _their_gradients(made):
  return reference.named(
    reference.params(head, reference.gradient) for head in made.theirs
  )


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
  return worst_error(got, (_their_gradients(made), by_features))


def _penalty(setup, seed):
  """R1 of each head's input, and its gradient by the parameters."""
  made = _made(setup, seed)
  total = reference.penalty(made.theirs, made.features)
  total.backward()

  def penalty(params, features):
    variables = made.variables | {'params': params}
    return latent_adversarial.gradient_penalty(
      functools.partial(made.ours.apply, variables), features
    )

  got, gradients = jax.jit(jax.value_and_grad(penalty))(
    made.variables['params'], _arrays(made.features)
  )
  want = _their_gradients(made)
  return max(relative_error(got, total.detach()), worst_error(gradients, want))


def _iterations(seed):
  """Vectors after further calls, each with one iteration."""
  made = _made(_SETUPS[0], seed)
  spectral = made.variables['spectral']
  for _ in range(_STEPS):
    spectral = jax.jit(ladd.renewed)(made.variables['params'], spectral)
    for head, x in zip(made.theirs, made.features):
      head.train()(x)
  return worst_error(
    spectral, reference.named(map(reference.vectors, made.theirs))
  )


def _losses(kind, seed):
  """Error of both players' losses, of 3 real examples and 5 fakes."""
  torch.manual_seed(seed)
  real, fake = (
    (2 * torch.randn(count, 7)).requires_grad_() for count in (3, 5)
  )
  generator, discriminator = reference.LOSSES[kind]
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
  return worst_error(got, (want.detach(), gradients))
