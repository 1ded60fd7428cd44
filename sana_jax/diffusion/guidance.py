"""Guidance: functions that combine predictions.

  CFG   v = u + s (c - u)                                    (2207.12598, eq. 6)
  PAG   v = ... + p (c - c')      c' with identity self-attention   (2403.17377)
  APG   v = c + (s - 1) update,   update = what CFG's c - u adds across the
        conditional prediction, plus eta times what it adds along it, both of
        clean images, and clipped in norm                           (2410.02416)

All predictions of a step come from one call on a larger batch, in the order
[unconditional, conditional, perturbed], as in diffusers and NVlabs/Sana. NVlabs
guides the noise prediction; that is the same, because noise = x + (1 - t) v is
affine in v; so is the velocity of any other path. CFG is applied only for s > 1
(diffusers): otherwise there is no unconditional prediction.
"""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from sana_jax.diffusion.paths import Prediction
from sana_jax.diffusion.samplers.base import Predict
from sana_jax.errors import UserError
from sana_jax.typing import Array, Float, PyTree

# (x [b ...], time [b], conditioning with leading axes b, timestep=[b]) -> a
# prediction, such as a Denoiser gives. With PAG it also takes `perturbed` [b]:
# whose self-attention is the identity.
Model = Callable[..., Prediction]


@dataclasses.dataclass(frozen=True)
class Guidance:
  """Settings for combining predictions; hashable, for `jax.jit`.

  Attributes:
    scale: scale of CFG (or APG); 1 or less disables it.
    interval: times in [0, 1] at which CFG is applied; outside, only the
      conditional is computed (2404.07724; NVlabs' interval_guidance).
    pag_scale: scale of PAG; 0 disables it.
    pag_layers: indices of the blocks that PAG perturbs; empty for the model's
      default.
    pag_adaptive: PAG's scale at t is pag_scale - pag_adaptive (1000 - 1000 t),
      at least 0, as in diffusers.
    apg_eta: None for CFG; else the weight of the part along the prediction.
    apg_norm: maximum norm of an update, 0 for no limit.
  """

  scale: float = 4.5
  interval: Sequence[float] = (0.0, 1.0)
  pag_scale: float = 0.0
  pag_layers: Sequence[int] = ()
  pag_adaptive: float = 0.0
  apg_eta: float | None = None
  apg_norm: float = 0.0

  def __post_init__(self):
    """Raises UserError for invalid options."""
    for name in ('interval', 'pag_layers'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    for name in ('scale', 'pag_scale', 'pag_adaptive', 'apg_norm'):
      if not 0 <= (value := getattr(self, name)) < float('inf'):
        raise UserError(
          f'guidance_{name} is {value}; it must be 0 or more.'
          if name == 'scale'
          else f'{name} is {value}; it must be 0 or more.',
          key='guidance_scale' if name == 'scale' else name,
          value=value,
          allowed='0 or more',
        )
    if len(self.interval) != 2 or not (
      0 <= self.interval[0] < self.interval[1] <= 1
    ):
      raise UserError(
        f'The guidance interval is {self.interval}; it must be '
        'two times in [0, 1], the smaller one first.',
        key='interval',
        value=self.interval,
        allowed='two times in [0, 1]',
      )

  @property
  def enabled(self) -> bool:
    """Whether there is an unconditional prediction."""
    return self.scale > 1

  @property
  def perturbs(self) -> bool:
    """Whether there is a perturbed prediction."""
    return self.pag_scale > 0


def guide(
  model: Model,
  conditional: PyTree,
  unconditional: PyTree,
  guidance: Guidance | float,
) -> Predict:
  """Binds a model to its conditioning, with guidance.

  Args:
    model: see `Model`; its times have one entry an example.
    conditional: arrays with a leading batch axis.
    unconditional: the same structure and shapes; None is allowed without CFG.
    guidance: the settings, or the scale of plain CFG.
  """
  if not isinstance(guidance, Guidance):
    guidance = Guidance(guidance)

  def predict(x, t, timestep):
    return _guided(model, conditional, unconditional, guidance, x, t, timestep)

  if not guidance.enabled or guidance.interval == (0.0, 1.0):
    return predict
  plain = dataclasses.replace(guidance, scale=1.0)
  low, high = (1000.0 * t for t in guidance.interval)

  def within(x, t, timestep):
    return jax.lax.cond(
      (low < timestep) & (timestep < high),
      predict,
      lambda *at: _guided(model, conditional, None, plain, *at),
      x,
      t,
      timestep,
    )

  return within


def _guided(model, conditional, unconditional, guidance, x, t, timestep):
  """Makes one model call on all required inputs and combines its outputs."""
  conditions = [unconditional] * guidance.enabled + [conditional]
  conditions += [conditional] * guidance.perturbs
  count = len(conditions)
  more = {}
  if guidance.perturbs:
    more['perturbed'] = jnp.repeat(jnp.arange(count) == count - 1, x.shape[0])
  of_each = lambda time: jnp.broadcast_to(time, (count * x.shape[0],))
  prediction = model(
    jnp.concatenate([x] * count),
    of_each(t),
    jax.tree.map(lambda *parts: jnp.concatenate(parts), *conditions),
    timestep=of_each(timestep),
    **more,
  )
  path = prediction.path
  velocities = jnp.split(prediction.velocity(), count)
  c = velocities[guidance.enabled]
  v = c
  if guidance.enabled:
    v = combine(velocities[0], c, guidance.scale)
    if guidance.apg_eta is not None:
      flow_x, flow_t = path.to_flow(x, t)
      u_and_c = (path.velocity_to_flow(y, x, t) for y in (velocities[0], c))
      v = path.velocity_from_flow(
        project(*u_and_c, flow_x, timestep / 1000, guidance), flow_x, flow_t
      )
  if guidance.perturbs:
    scale = jnp.maximum(
      guidance.pag_scale - guidance.pag_adaptive * (1000 - timestep), 0
    )
    v = v + scale * (c - velocities[-1])
  return Prediction(x, t, v, path)


def combine(
  unconditional: Float[Array, '*x'],
  conditional: Float[Array, '*x'],
  scale: float,
) -> Float[Array, '*x']:
  """Guided prediction in float32: bfloat16 would round the difference."""
  u, c = _float(unconditional), _float(conditional)
  return u + scale * (c - u)


def project(
  unconditional: Float[Array, 'b *x'],
  conditional: Float[Array, 'b *x'],
  x: Float[Array, 'b *x'],
  time: Float[Array, ''],
  guidance: Guidance,
) -> Float[Array, 'b *x']:
  """Velocity of the flow by APG: CFG's update without the oversaturating part.

  Directions and norms are those of the predicted clean image, x - t v.
  """
  u, c, x = _float(unconditional), _float(conditional), _float(x)
  clean = x - time * c
  update = time * (u - c)  # Conditional - unconditional clean image.
  if guidance.apg_norm:
    update *= jnp.minimum(
      1, guidance.apg_norm / jnp.maximum(jnp.sqrt(_dot(update, update)), 1e-12)
    )
  along = _dot(update, clean) / jnp.maximum(_dot(clean, clean), 1e-12) * clean
  update = update - along + guidance.apg_eta * along
  return c - (guidance.scale - 1) * update / jnp.maximum(time, 1e-12)


def _dot(a, b):
  """Dot product of each example, with broadcastable axes."""
  return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _float(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
