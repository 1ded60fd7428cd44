"""Parity of the losses of SANA-Sprint, with the gradients of whole turns.

sana_jax is in float32, and the reference in float64 (doubles.py,
distillation_reference.py). A row in float64 is that of the tangent through a
float64 network, whose norms and softmax stay in float32. Networks are tiny,
with QK-norm, times in [0, 1] and an embedding of the guidance scale; the
log-variance head, which diffusers does not have, is a `torch.nn.Linear` on its
embedding of the time.

The error of a turn,

  max(loss, all gradients as one vector, the worst parameter's gradient / 10)

allows 1e-4 to a parameter, as gradients of small ones are sums that cancel.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import torch

from sana_jax import config as configs
from sana_jax.diffusion.denoiser import Condition, Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.models import ladd
from sana_jax.objectives import adversary, consistency
from sana_jax.objectives import sprint as objective
from sana_jax.objectives.adversary import Turn
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.tools.parity import distillation_reference as reference
from sana_jax.tools.parity import doubles, ladd_heads, references, sana
from sana_jax.tools.parity.ledger import Case, MODULE, relative_error
from sana_jax.tools.parity.references import worst_error
from sana_jax.typing import PyTree
from sana_jax.weights import sana as maps
from sana_jax.weights import table
from sana_jax.weights.tensors import stored

_WIDTH = 64
# Heads of 32: with 8 dimensions, the sums of some queries are nearly zero, and
# errors of diffusers' own tangents in float32 reach 5e-5 instead of 3e-7.
_HEADS = dict(
  num_attention_heads=_WIDTH // 32,
  attention_head_dim=32,
  num_cross_attention_heads=2,
  cross_attention_head_dim=32,
  cross_attention_dim=_WIDTH,
)
_TEACHER = (
  sana.TINY | sana.NORM | _HEADS | dict(num_layers=2, timestep_scale=1e-3)
)
_IMAGES, _WORDS, _GRID = 4, 5, (3, 4)
_STEP, _WARM = 3, 0.75  # Of 4 steps.
_STUDENT, _DISCRIMINATOR = Turn(True, False), Turn(False, True)


class Setup(NamedTuple):
  """A turn: changes to both groups of settings."""

  what: str
  turn: Turn = _STUDENT
  sprint: dict[str, Any] = {}
  ladd: dict[str, Any] = {}
  teacher: bool = True


_DISCRETE = dict(loss='discrete', discrete_step=0.6, huber=0.5)
_PUBLISHED = dict(weighting='published')
_ADVERSARIAL = dict(weight=0.5)
_ENTROPY = dict(weight=0.5, loss='cross_entropy')
_SETUPS = (
  Setup('sCM'),
  Setup('sCM with the log-variance', sprint=_PUBLISHED),
  Setup('sCM without a teacher', teacher=False),
  Setup('discrete, target an EMA', sprint=_DISCRETE | dict(target_decay=0.9)),
  Setup('discrete with the log-variance', sprint=_DISCRETE | _PUBLISHED),
  Setup('sCM and hinge', ladd=_ADVERSARIAL),
  Setup('sCM and cross entropy', ladd=_ENTROPY),
  Setup('discriminator, hinge', _DISCRIMINATOR, ladd=_ADVERSARIAL),
  Setup('discriminator, cross entropy', _DISCRIMINATOR, ladd=_ENTROPY),
  Setup(
    'discriminator, hinge and R1, no misaligned pairs',
    _DISCRIMINATOR,
    ladd=_ADVERSARIAL | dict(r1=0.1, misaligned=False),
  ),
)


def cases() -> list[Case]:
  """Cases of the tangent, then of whole turns."""
  case = functools.partial(
    Case, 'distillation', size='tiny', dtype='float32', bound=MODULE
  )
  return [
    *(
      case(
        "sCM's tangent: w and g",
        dtype=jnp.dtype(dtype).name,
        measure=functools.partial(_tangent, dtype),
      )
      for dtype in (jnp.float64, jnp.float32)
    ),
    *(
      case(
        f'turn: {setup.what}',
        measure=functools.partial(_turn, setup),
        against='PyTorch',
      )
      for setup in _SETUPS
    ),
  ]


class _Model(NamedTuple):
  """A transformer of both sides with the same weights."""

  theirs: torch.nn.Module
  config: dict[str, Any]
  module: Any
  params: PyTree


def _made(seed, logvar=False, guidance=True):
  """The reference is in float64."""
  config = _TEACHER | dict(guidance_embeds=guidance)
  theirs = sana.make(config, seed)
  if logvar:
    config |= dict(logvar=True)
    theirs.logvar = references.randomise(torch.nn.Linear(_WIDTH, 1))
    # Positive, as a loss whose terms cancel has a large relative error.
    torch.nn.init.constant_(theirs.logvar.bias, 3.0)
  module, params = sana.converted(
    config, references.weights(theirs), jnp.float32
  )
  return _Model(doubles.doubled(theirs), config, module, params)


def _gradients(model):
  """The reference's gradients as a tree of sana_jax's parameters."""
  tensors = {
    name: stored(ladd_heads.gradient(p).numpy())
    for name, p in model.theirs.named_parameters()
  }
  rules = maps.rules(model.config['guidance_embeds'])
  return table.load(rules, tensors, sana.shapes(model.module))


class _Inputs(NamedTuple):
  """Inputs as arrays in float32, with channels last."""

  latents: np.ndarray
  text: np.ndarray
  mask: np.ndarray
  null_text: np.ndarray
  null_mask: np.ndarray


def _inputs(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  width = _TEACHER['caption_channels']
  lengths = rng.integers(1, _WORDS + 1, (_IMAGES, 1))
  return _Inputs(
    draw(_IMAGES, *_GRID, _TEACHER['in_channels']),
    draw(_IMAGES, _WORDS, width),
    np.arange(_WORDS) < lengths,
    draw(_WORDS, width),
    np.arange(_WORDS) < 2,
  )


def _tensor(x):
  return torch.from_numpy(np.array(x)).double()


def _their_inputs(inputs):
  """Latents [b c y x] and words."""
  latents = _tensor(references.channels_first(inputs.latents))
  null = (
    _tensor(np.broadcast_to(x, (_IMAGES, *x.shape)))
    for x in (inputs.null_text, inputs.null_mask)
  )
  words = reference.Words(_tensor(inputs.text), _tensor(inputs.mask), *null)
  return latents, words


def _settings(group, changes):
  return configs.train('sprint')[group].to_dict() | changes


def _compiled(function, *args):
  with jax.default_matmul_precision('float32'):
    return jax.jit(function)(*args)


def _tangent(dtype, seed):
  """Larger error of w and g at random points, with a random speed."""
  model, inputs = _made(seed), _inputs(seed)
  rng = np.random.default_rng([seed, 1])
  draw = lambda: rng.normal(scale=0.5, size=inputs.latents.shape)
  at = draw(), rng.uniform(0.05, 1.55, _IMAGES), draw()
  x, t, speed = (np.float32(a) for a in at)
  scale = np.float32(rng.uniform(1, 5, _IMAGES))
  student = Denoiser(model.module.clone(dtype=dtype), TrigFlow(reference.SIGMA))
  words = Condition(inputs.text, inputs.mask, scale)

  def ours(params, x, t, speed):
    velocity = lambda x, t: student(params, x, t, words).velocity()
    return consistency.tangent(velocity, x, t, speed, _WARM)

  given = model.params, x, t, speed
  with jax.enable_x64(dtype == jnp.float64):
    given = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), given)
    _, g, w = jax.tree.map(np.asarray, _compiled(ours, *given))
  nets = reference.Networks(model.theirs, None, None, (), {}, {})
  want = reference.tangent(
    nets,
    *(_tensor(references.channels_first(a)) for a in (x, speed)),
    reference.Draw(None, _tensor(t), _tensor(scale)),
    _their_inputs(inputs)[1],
    _WARM,
  )
  return max(
    relative_error(references.channels_first(got), a.numpy())
    for got, a in ((w, want.w), (g, want.g))
  )


class _Made(NamedTuple):
  """Networks of both sides."""

  student: _Model
  theirs: reference.Networks
  ours: Sprint
  params: PyTree
  frozen: PyTree


def _networks(setup, seed):
  sprint = dict(tangent_warmup_steps=4) | setup.sprint
  sprint = _settings('sprint', sprint)
  blocks = dict(blocks=(0, 1)) | setup.ladd
  options = _settings('ladd', blocks)
  student = _made(seed, logvar=sprint['weighting'] == 'published')
  teacher = _made(seed + 1, guidance=False) if setup.teacher else None
  target = _made(seed + 2) if sprint['target_decay'] else None
  params, frozen = dict(student.params), {}
  heads = _heads(seed) if options['weight'] else []
  if heads:
    params[adversary.DISCRIMINATOR] = ladd_heads.named(
      map(ladd_heads.params, heads)
    )
    params[adversary.SPECTRAL] = ladd_heads.named(
      map(ladd_heads.vectors, heads)
    )
  if target:
    params[objective.TARGET] = target.params
  if teacher:
    frozen['teacher'] = teacher.params
  path = TrigFlow(reference.SIGMA)
  ours = Sprint(
    Denoiser(student.module, path),
    Denoiser(teacher.module, path) if teacher else None,
    ladd.Heads(),
    ConfigDict(sprint),
    ConfigDict(options),
  )
  theirs = reference.Networks(
    student.theirs,
    teacher and teacher.theirs,
    target and target.theirs,
    [head.double() for head in heads],
    sprint,
    options,
  )
  return _Made(student, theirs, ours, params, frozen)


def _heads(seed):
  torch.manual_seed(seed)
  return [references.randomise(ladd_heads.Head(_WIDTH)) for _ in range(2)]


# Of turns with heads: gradients jump at the kink of a LeakyReLU, on whose sides
# two programs may be; the activations of this draw are not there.
_SEED = 1119960479


def _turn(setup, seed):
  """Errors of a turn's loss and of the gradients of its player."""
  if setup.ladd:
    seed = _SEED
  made, inputs = _networks(setup, seed), _inputs(seed)
  keys = jax.random.split(jax.random.key(seed), _IMAGES)
  frozen = made.frozen | {
    'null_text': inputs.null_text,
    'null_mask': inputs.null_mask,
  }
  batch = {name: getattr(inputs, name) for name in ('latents', 'text', 'mask')}
  # Players that take turns count both.
  step = _STEP * 2 - 1 if made.ours.takes_turns else _STEP

  def loss(params):
    return objective.sprint_loss(
      made.ours,
      lambda frozen, batch: batch,
      setup.turn,
      params,
      frozen,
      batch,
      keys,
      step,
    )[0]

  got, gradients = _compiled(jax.value_and_grad(loss), made.params)
  want = _their_turn(setup, made, *_their_inputs(inputs), keys)
  if setup.turn.student:
    pair = objective.student_of(gradients), _gradients(made.student)
  else:
    pair = gradients[adversary.DISCRIMINATOR], _judges(made.theirs.heads)
  one, other = (
    np.concatenate([*map(np.ravel, jax.tree.leaves(x))]) for x in pair
  )
  return max(
    relative_error(got, want),
    relative_error(one, other),
    worst_error(*pair) / 10,
  )


def _judges(heads):
  """Gradients of the reference's heads."""
  gradients = lambda head: ladd_heads.params(head, ladd_heads.gradient)
  return ladd_heads.named(map(gradients, heads))


def _their_turn(setup, made, latents, words, keys):
  """The reference's loss, after its backward pass."""
  nets, given = made.theirs, (latents, words, keys)
  reference.iterate(nets)
  if setup.turn.student:
    loss = reference.consistency(nets, *given, _WARM)
    if nets.heads:
      loss = loss + reference.adversarial(nets, *given)
  else:
    loss = reference.discriminator(nets, *given)
  loss.backward()
  return loss.detach().numpy()
