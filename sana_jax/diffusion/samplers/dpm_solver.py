r"""DPM-Solver++ multistep on the flow, SANA's sampler (2211.01095).

The solver follows the predicted data x0 = x - t v in half log SNR
l = ln(1 - t) - ln t, where the linear part is exact. A step of length
h = l(s) - l(t) from t to s, with e^-h = s (1 - t) / (t (1 - s)):

  x' = s/t x - (1-s)(e^-h - 1) x0                                      order 1
       - (1-s)(e^-h - 1)/2 D1                                 order 2, midpoint
       + (1-s)((e^-h - 1)/h + 1) D1                           order 2, heun; 3
       - (1-s)((e^-h - 1 + h)/h^2 - 1/2) D2                            order 3

D1 is h times the slope of x0 at t from past steps, D2 its second divided
difference times h^2. That is half of h^2 x0'', so that the order-3 step, as
diffusers and the paper's own code write it, is of order 2 with a small
constant. (Measured; with D2 doubled it is of order 3, and no better in 20
steps. The references' form is kept.)

On this path (1-s)(e^-h - 1) = s/t - 1, so that the order-1 step is

  x' = x + (s - t) v

Euler's step. It needs no logarithm, and is exact at t = 1 and s = 0; diffusers
and NVlabs/Sana compute the right-hand side above, and NVlabs x0 by way of the
noise, which costs it 3 to 4 digits in its first step.

Orders rise as history allows. As in diffusers, the step that ends at 0 is of
order 1, and with fewer than 15 steps the one before it of order 2 at most.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from sana_jax.diffusion.paths import Prediction
from sana_jax.diffusion.samplers.base import Interval
from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, Int, Keys

FEW_STEPS = 15  # Below, `lower_order_final` applies.


@dataclasses.dataclass(frozen=True)
class DpmSolver:
  """One model call a step.

  Attributes:
    order: 1, 2 or 3.
    variant: 'midpoint' or 'heun', for the steps of order 2.
    lower_order_final: with fewer than 15 steps, lower the final orders: 2 at
      most in the last step but one, 1 in the last. The step that ends at time 0
      is always of order 1.
  """

  order: int = 2
  variant: str = 'midpoint'
  lower_order_final: bool = True

  class Carry(NamedTuple):
    x: Float[Array, '*x']
    # Newest first, one less than the order; padded with weight 0 at the start.
    past: tuple[Float[Array, '*x'], ...]  # Predictions of the data,
    lengths: tuple[Float[Array, ''], ...]  # and the steps h taken from them.

  def __post_init__(self):
    if self.order not in (1, 2, 3):
      raise UserError(
        f'The order of DPM-Solver++ is {self.order}; allowed are 1, 2 and 3.',
        key='order',
        value=self.order,
      )
    if self.variant not in ('midpoint', 'heun'):
      raise UserError(
        f'The variant of DPM-Solver++ is {self.variant!r}; allowed are '
        "'midpoint' and 'heun'.",
        key='variant',
        value=self.variant,
        allowed=('midpoint', 'heun'),
      )

  def init(self, x: Float[Array, '*x'], rng: Keys | None = None) -> Carry:
    past = self.order - 1
    return self.Carry(
      x, (jnp.zeros_like(x),) * past, (jnp.ones((), x.dtype),) * past
    )

  def step(
    self,
    carry: Carry,
    prediction: Prediction,
    at: Interval,
    rng: Keys | None = None,
  ) -> Carry:
    h = _half_log_snr(at.s) - _half_log_snr(at.t)
    past = (prediction.data(), *carry.past)
    weights = self._weights(self._order(at), at, h, carry.lengths)
    x = carry.x + (at.s - at.t) * prediction.velocity()
    for weight, newer, older in zip(weights, past, past[1:]):
      x += weight * (newer - older)
    kept = self.order - 1
    return self.Carry(x, past[:kept], (h, *carry.lengths)[:kept])

  def _order(self, at: Interval) -> Int[Array, '']:
    final = at.s == 0
    order = jnp.minimum(self.order, at.index + 1)
    if self.lower_order_final:
      few = at.index + at.left + 1 < FEW_STEPS
      final |= few & (at.left == 0)
      order = jnp.where(few & (at.left == 1), jnp.minimum(order, 2), order)
    return jnp.where(final, 1, order)

  def _weights(self, order, at, h, lengths):
    """Weights of past data's differences, newest first; 0 above the order."""
    if not lengths:
      return ()
    # (1-s)((e^-h - 1)/h + 1) and (1-s)((e^-h - 1 + h)/h^2 - 1/2).
    heun = (at.s / at.t - 1) / h + 1 - at.s
    cubic = heun / h - (1 - at.s) / 2
    midpoint = (1 - at.s / at.t) / 2
    h0 = lengths[0]
    second = (midpoint if self.variant == 'midpoint' else heun) * h / h0
    if len(lengths) == 1:
      return (jnp.where(order == 2, second, 0),)
    h1 = lengths[1]
    bend = (heun * h0 - cubic * h) / (h0 + h1) * h
    third = (heun * h + bend) / h0
    return (
      jnp.select([order == 2, order == 3], [second, third], 0),
      jnp.where(order == 3, -bend / h1, 0),
    )


def _half_log_snr(t):
  return jnp.log1p(-t) - jnp.log(t)
