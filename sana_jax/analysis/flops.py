"""Floating point operations of a program's matmuls and convolutions.

Counted on the jaxpr, loops included (XLA's cost analysis counts the body of a
loop once). A multiply-add is 2. Other operations, such as norms, activations
and the shifted multiply-adds of depthwise convolutions, are omitted, as is
usual: about 1 % of SANA.
"""

from collections.abc import Callable, Iterator, Mapping
import math
from typing import Any

import jax

from sana_jax import kernels


def count(f: Callable, *args: Any) -> int:
  """FLOPs of one call, traced only: arguments may be ShapeDtypeStructs.

  Raises ValueError for a loop whose length is not known.
  """
  return of_jaxpr(traced(f, *args))


def traced(f: Callable, *args: Any):
  """Jaxpr of a call without kernels, whose FLOPs are opaque."""
  with kernels.prefer(**dict.fromkeys(kernels.OPS, 'xla')):
    return jax.make_jaxpr(f)(*args).jaxpr


def of_jaxpr(jaxpr) -> int:
  """FLOPs of a jaxpr and the jaxprs it calls."""
  return sum(of_equation(e) for e in jaxpr.eqns)


def of_equation(e) -> int:
  """FLOPs of a jaxpr's equation and the jaxprs it calls."""
  name, params = e.primitive.name, e.params
  if name == 'dot_general':
    (contract, _), _ = params['dimension_numbers']
    left = e.invars[0].aval.shape
    return 2 * _size(e.outvars[0]) * math.prod(left[i] for i in contract)
  if name == 'conv_general_dilated':
    kernel = e.invars[1].aval.shape
    spec = params['dimension_numbers'].rhs_spec  # (out, in, ...spatial).
    return 2 * _size(e.outvars[0]) * math.prod(kernel[i] for i in spec[1:])
  if name == 'scan':
    return params['length'] * of_jaxpr(params['jaxpr'].jaxpr)
  if name == 'cond':
    return max(of_jaxpr(branch.jaxpr) for branch in params['branches'])
  inner = sum(of_jaxpr(j) for j in called(params))
  if name == 'while' and inner:
    raise ValueError('A while loop with products: its length is not known.')
  return inner


def _size(variable) -> int:
  return math.prod(variable.aval.shape)


def called(params: Mapping[str, Any]) -> Iterator:
  """Jaxprs among an equation's parameters."""
  for key, value in params.items():
    if key == 'jvp_jaxpr_fun' or key.startswith(('fwd', 'bwd')):
      continue  # A custom derivative, which is not called here.
    if hasattr(value, 'jaxpr'):
      yield value.jaxpr
    elif hasattr(value, 'eqns'):
      yield value
