"""Floating point operations of a loss and its gradient.

    product y = a b:  F for y, F for a's gradient, F for b's

where F is flops.py's count. An operand needs a gradient if it depends on a
trainable parameter and the loss depends on its product, neither through a
stop_gradient or an integer. So a layer on data costs 2 F, a frozen encoder F,
and a frozen layer after a trainable one 2 F. Recomputation by remat is not
counted.
"""

from collections.abc import Iterable, Sequence

import jax
from jax.extend.core import Literal
import jax.numpy as jnp

from sana_jax.analysis import flops


def of_training(jaxpr: jax.extend.core.Jaxpr, trained: Sequence[bool]) -> int:
  """FLOPs of a jaxpr whose first output is the loss, and its gradient.

  `trained` marks the trainable inputs.

  Raises ValueError for a loop whose length is not known.
  """
  loss = [i == 0 for i, _ in enumerate(jaxpr.outvars)]
  return flops.of_jaxpr(jaxpr) + _backward(jaxpr, trained, loss)


def _backward(jaxpr, trained, live) -> int:
  """FLOPs of the gradients of `live` outputs by `trained` inputs."""
  depend, matter = _marked(jaxpr, trained, False), _marked(jaxpr, live, True)
  total = 0
  for e in jaxpr.eqns:
    ins, outs = _among(e.invars, depend), _among(e.outvars, matter)
    if any(ins) and any(outs):
      total += _backward_of(e, ins, outs)
  return total


def _backward_of(e, ins, outs) -> int:
  name, params = e.primitive.name, e.params
  if name in ('dot_general', 'conv_general_dilated'):
    return sum(ins) * flops.of_equation(e)
  if name == 'scan':
    return _backward_of_scan(e, ins, outs)
  if name == 'cond':
    return max(_backward(b.jaxpr, ins[1:], outs) for b in params['branches'])
  if inner := _call(e):
    return _backward(inner, ins, outs)
  if flops.of_equation(e):
    raise ValueError(f'The gradient of {name} with products is not known.')
  return 0


def _backward_of_scan(e, ins, outs) -> int:
  """FLOPs of a scan's gradient; its first rounds may differentiate less."""
  body, rounds = e.params['jaxpr'].jaxpr, e.params['length']
  outs = _round(e, outs, True, to_the_end=True)
  total = 0
  while rounds:
    following = _round(e, ins, False)
    same = following == ins
    total += (rounds if same else 1) * _backward(body, ins, outs)
    rounds, ins = 0 if same else rounds - 1, following
  return total


def _marked(jaxpr, marks: Sequence[bool], back: bool) -> set:
  """Variables that marked inputs reach; with `back`, that reach outputs."""
  ends = jaxpr.outvars if back else jaxpr.invars
  found = set(_differentiable(ends, marks))
  for e in reversed(jaxpr.eqns) if back else jaxpr.eqns:
    here, there = (e.outvars, e.invars) if back else (e.invars, e.outvars)
    if any(marks := _among(here, found)):
      found.update(_differentiable(there, _through(e, marks, back)))
  return found


def _through(e, marks, back) -> Sequence[bool]:
  """Marks of an equation's outputs from its inputs, or `back`."""
  name, params = e.primitive.name, e.params
  if name == 'stop_gradient':
    return [False]
  if name == 'scan':
    marks = _round(e, marks, back, to_the_end=True)
    return _ends(params['jaxpr'].jaxpr, marks, back)
  if name == 'cond':
    found = [
      _ends(b.jaxpr, marks if back else marks[1:], back)
      for b in params['branches']
    ]
    return [False] * back + [any(m) for m in zip(*found)]
  if inner := _call(e):
    return _ends(inner, marks, back)
  return [True] * len(e.invars if back else e.outvars)


def _round(e, marks, back, to_the_end=False):
  """Marks of a scan's body after a round; a marked carry stays marked."""
  body = e.params['jaxpr'].jaxpr
  count = _unstacked(e.outvars, body.outvars)
  consts = _unstacked(e.invars, body.invars) - count
  here, there = (0, consts) if back else (consts, 0)
  while True:
    found = _ends(body, marks, back)
    following = list(marks)
    for i in range(count):
      following[here + i] |= found[there + i]
    if not to_the_end or following == marks:
      return following
    marks = following


def _unstacked(outer, inner) -> int:
  """Number of a scan's operands or results that are not stacked by round.

  The parameters that hold it have other names in each version of JAX.
  """
  return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner))


def _ends(jaxpr, marks, back):
  found = _marked(jaxpr, marks, back)
  return _among(jaxpr.invars if back else jaxpr.outvars, found)


def _call(e):
  """The only jaxpr that an equation calls with its own operands, or None."""
  ends = lambda x: (len(x.invars), len(x.outvars))
  inner = list(flops.called(e.params))
  if len(inner) == 1 and ends(inner[0]) == ends(e):
    return None if e.primitive.name == 'while' else inner[0]
  return None


def _among(variables: Iterable, found: set) -> list[bool]:
  return [not isinstance(v, Literal) and v in found for v in variables]


def _differentiable(variables, marks):
  return (
    v
    for v, m in zip(variables, marks)
    if m
    and not isinstance(v, Literal)
    and jnp.issubdtype(v.aval.dtype, jnp.inexact)
  )
