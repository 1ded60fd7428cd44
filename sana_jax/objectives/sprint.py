"""SANA-Sprint: consistency distillation, with a discriminator if wanted.

    teacher's velocity -> consistency loss of the student
    student's data, noised -> teacher's features -> heads: real or not (LADD)

The parameters are the student's and, in an adversarial run, `discriminator`;
without gradients, `spectral` (vectors of its spectral norms) and the EMA that a
discrete loss may have as `target`. Both players move in one step, or take turns
(config.ladd.turns) as in the official code. (2503.09641) Of a student with
adapters, the factors alone train, and the target is their EMA on the same base.
"""

from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp

from sana_jax.objectives import adversary, consistency, flow_matching
from sana_jax.objectives.adversary import DISCRIMINATOR, SPECTRAL, Turn
from sana_jax.objectives.base import (
  Aux,
  EVERYTHING,
  Metrics,
  Objective,
  Partial,
  Player,
)
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.optim import ema
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Keys, Params, PyTree

TARGET = 'target'
OTHERS = (DISCRIMINATOR, SPECTRAL, TARGET)  # Than the student's parameters.
_NOT_OTHERS = f'(?!(?:{"|".join(OTHERS)})/)'
STUDENT = f'{_NOT_OTHERS}.*'


def objective(
  sprint: Sprint,
  *,
  init: Callable,
  rules: Table,
  head_rules: Table,
  tokens: int,
  teacher: PyTree = None,
  encode: Callable = lambda frozen, batch: batch,
  partial: Partial = EVERYTHING,
) -> Objective:
  """Objective of a distillation.

  Args:
    init: rng -> the student's parameters.
    rules: the student's sharding table.
    head_rules: the discriminator's.
    tokens: length of a caption in the described batches.
    teacher: shapes of the teacher's parameters, if there is one.
    encode, partial: see `flow_matching.objective`.
  """
  parts = {TARGET: _of_target(sprint, rules)} if sprint.has_target else {}
  if sprint.is_adversarial:
    parts |= {DISCRIMINATOR: head_rules, SPECTRAL: (('.*', ()),)}
  extra = [f'{name}/.*' for name in (SPECTRAL, TARGET) if name in parts]
  module = sprint.student.module
  return Objective(
    lambda rng: completed(sprint, init(rng), rng),
    _table(rules, parts),
    _players(sprint, encode),
    functools.partial(flow_matching.described_batch, module, tokens),
    functools.partial(_frozen, sprint, tokens, teacher),
    extra=' '.join(extra),
    frozen_rules={'teacher': rules} if sprint.teacher else {},
    partial=partial._replace(
      completed=lambda params: with_target(sprint, partial.completed(params))
    ),
  )


def completed(sprint: Sprint, params: Params, rng: Array) -> Params:
  """The student's parameters with the first ones of all other parts."""
  params = with_target(sprint, params)
  if sprint.is_adversarial:
    params = params | adversary.init(sprint, jax.random.fold_in(rng, 1))
  return params


def with_target(sprint: Sprint, params: Params) -> Params:
  """The parameters with the EMA that a discrete loss may need."""
  if not sprint.has_target:
    return params
  return params | {TARGET: ema.init(_trained(sprint, student_of(params)))}


def student_of(params: Params) -> Params:
  """The student's parameters alone."""
  return {part: x for part, x in params.items() if part not in OTHERS}


def _trained(sprint, student):
  """The part of the student's parameters that trains."""
  key = sprint.factors
  return {key: student[key]} if key else student


def _of_target(sprint, rules):
  """The rows of the parameters that the target has."""
  start = f'{sprint.factors}/' if sprint.factors else ''
  return tuple(row for row in rules if row[0].startswith(start))


def _table(rules: Table, parts: Mapping[str, Table]) -> Table:
  """The student's table, and those of the other parts below their names."""
  own = tuple((f'{_NOT_OTHERS}(?:{pattern})', spec) for pattern, spec in rules)
  return own + tuple(
    (f'{name}/(?:{pattern})', spec)
    for name, table in parts.items()
    for pattern, spec in table
  )


def _players(sprint, encode) -> tuple[Player, ...]:
  loss = functools.partial(sprint_loss, sprint, encode)
  if not sprint.is_adversarial:
    return (Player('model', functools.partial(loss, Turn(True, False))),)
  both = functools.partial(loss, Turn(True, True))
  turns = sprint.takes_turns
  first, second = both, both
  if turns:
    first = functools.partial(loss, Turn(True, False))
    second = functools.partial(loss, Turn(False, True))
  return (
    Player('model', first, STUDENT, every=1 + turns),
    Player(
      DISCRIMINATOR,
      second,
      f'{DISCRIMINATOR}/.*',
      every=1 + turns,
      offset=int(turns),
      optimizer='discriminator',
      in_ema=False,
    ),
  )


def sprint_loss(
  sprint: Sprint,
  encode: Callable,
  turn: Turn,
  params: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
) -> tuple[Array, Aux]:
  """Sum of the losses of a turn; see objectives.base.Loss.

  Each player's gradient is that of its own loss, as the other's arrays are
  constants.
  """
  batch = encode(frozen, batch)
  if sprint.takes_turns:
    step = (step + 1) // 2  # The student's schedules count its own turns.
  student = student_of(params)
  loss, metrics, extra = jnp.float32(0), {}, {}
  if turn.student:
    target = student | params.get(TARGET, {})
    loss, metrics = _consistency(
      sprint, student, target, frozen, batch, rngs, step
    )
  if sprint.is_adversarial:
    more, seen, extra = adversary.losses(
      sprint, turn, params, student, frozen, batch, rngs, step
    )
    loss, metrics = loss + more, metrics | seen
  if sprint.has_target:
    extra[TARGET] = _next_target(sprint, turn, params, student, step)
  return loss, Aux(metrics, extra)


def _consistency(
  sprint, params, target, frozen, batch, rngs, step
) -> tuple[Array, Metrics]:
  """The consistency loss of config.sprint."""
  settings, student = sprint.settings, sprint.network
  at = consistency.points(
    student.path, sprint.teacher, settings, frozen, batch, rngs
  )
  weights = batch.get('weights')
  if settings.loss == 'scm':
    return consistency.scm(student, settings, params, at, step, weights)
  return consistency.discrete(student, settings, params, target, at, weights)


def _next_target(sprint, turn, params, student, step):
  if not turn.student:
    return params[TARGET]
  latest = jax.lax.stop_gradient(_trained(sprint, student))
  return ema.update(params[TARGET], latest, sprint.settings.target_decay, step)


def _frozen(sprint, tokens, teacher):
  """Shapes of the null text, and of the teacher in its dtype."""
  words = flow_matching.null_text(sprint.student.module, tokens)
  if sprint.teacher is None:
    return words
  dtype = jnp.dtype(sprint.teacher.module.dtype)
  like = lambda x: jax.ShapeDtypeStruct(x.shape, dtype)
  return words | {'teacher': jax.tree.map(like, teacher)}
