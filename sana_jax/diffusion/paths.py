"""Paths from data to noise, and predictions at their points.

  Flow      x = (1 - t) data + t noise          v = noise - data
  TrigFlow  x = s (cos t data + sin t noise)    v = s (cos t noise - sin t data)

v is dx/dt. The flow is SANA's (2410.10629, 2.3), its times lie in [0, 1];
TrigFlow is SANA-Sprint's (2410.11081, 2503.09641), its times are angles in
[0, pi/2] and s is `sigma_data`. Networks operate on the flow: they take its x
and 1000 times its time, and predict its v. With n = sqrt(t_f^2 + (1 - t_f)^2),
the same point and prediction are (2503.09641, 3.1)

  t_f = sin t / (sin t + cos t)         x_f = n x / s
  v = s ((1 - 2 t_f) x_f + n^2 v_f) / n

Times have one entry an example, or one for all.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from sana_jax.typing import Array, Float, PyTree

TRAIN_TIMESTEPS = 1000  # The network's timestep of pure noise.


@runtime_checkable
class Path(Protocol):
  """Path from data to noise, and its conversion to and from the flow; hashable.

  Attributes:
    scale: standard deviation of x at the ends, for data and noise of size one.
  """

  scale: float

  def interpolate(self, data: Array, noise: Array, t: Array) -> Array:
    """Noisy sample x at time t."""

  def target(self, data: Array, noise: Array, t: Array) -> Array:
    """Velocity dx/dt, the regression target."""

  def data(self, x: Array, v: Array, t: Array) -> Array:
    """Data end of the path through x along v."""

  def noise(self, x: Array, v: Array, t: Array) -> Array:
    """Noise end of the path through x along v."""

  def timestep(self, t: Array) -> Array:
    """Timestep of the network, in [0, 1000]."""

  def time(self, timestep: Array) -> Array:
    """Time of the path, given the network's timestep."""

  def to_flow(self, x: Array, t: Array) -> tuple[Array, Array]:
    """Converts this path's (x, t) to the flow's for the same data and noise."""

  def from_flow(self, x: Array, t: Array) -> tuple[Array, Array]:
    """Converts the flow's (x, t) to this path's."""

  def velocity_to_flow(self, v: Array, x: Array, t: Array) -> Array:
    """Converts this path's v at its x and t to the flow's velocity."""

  def velocity_from_flow(self, v: Array, x: Array, t: Array) -> Array:
    """Converts the flow's v at the flow's x and t to this path's velocity."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Flow:
  """Straight lines; see `Path`."""

  scale = 1.0

  def interpolate(self, data, noise, t):
    t = _like(t, data)
    return (1 - t) * data + t * noise

  def target(self, data, noise, t):
    return noise - data

  def data(self, x, v, t):
    return x - _like(t, x) * v

  def noise(self, x, v, t):
    return x + (1 - _like(t, x)) * v

  def timestep(self, t):
    return TRAIN_TIMESTEPS * t

  def time(self, timestep):
    return timestep / TRAIN_TIMESTEPS

  def to_flow(self, x, t):
    return x, t

  def from_flow(self, x, t):
    return x, t

  def velocity_to_flow(self, v, x, t):
    return v

  def velocity_from_flow(self, v, x, t):
    return v


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TrigFlow:
  """Arcs of a circle; see `Path`."""

  sigma_data: float = 0.5

  @property
  def scale(self):
    return self.sigma_data

  def interpolate(self, data, noise, t):
    cos, sin = self._circle(t, data)
    return self.sigma_data * (cos * data + sin * noise)

  def target(self, data, noise, t):
    cos, sin = self._circle(t, data)
    return self.sigma_data * (cos * noise - sin * data)

  def data(self, x, v, t):
    cos, sin = self._circle(t, x)
    return (cos * x - sin * v) / self.sigma_data

  def noise(self, x, v, t):
    cos, sin = self._circle(t, x)
    return (sin * x + cos * v) / self.sigma_data

  def timestep(self, t):
    return TRAIN_TIMESTEPS * (jnp.sin(t) / (jnp.sin(t) + jnp.cos(t)))

  def time(self, timestep):
    return jnp.arctan2(timestep, TRAIN_TIMESTEPS - timestep)

  def to_flow(self, x, t):
    cos, sin = self._circle(t, x)
    return (
      x / (self.sigma_data * (sin + cos)),
      jnp.sin(t) / (jnp.sin(t) + jnp.cos(t)),
    )

  def from_flow(self, x, t):
    return self.sigma_data / _norm(_like(t, x)) * x, jnp.arctan2(t, 1 - t)

  def velocity_to_flow(self, v, x, t):
    return self.noise(x, v, t) - self.data(x, v, t)

  def velocity_from_flow(self, v, x, t):
    t = _like(t, x)
    n = _norm(t)
    return self.sigma_data * ((1 - 2 * t) / n * x + n * v)

  def _circle(self, t, x):
    t = _like(t, x)
    return jnp.cos(t), jnp.sin(t)


class Prediction(NamedTuple):
  """Velocity at a point of a path, convertible to data and noise.

  Attributes:
    x, t, v: the point, its time and the velocity there.
    logvar: the network's estimate of the log-variance of its error, or None.
    features: x after the requested blocks of the network.
  """

  x: Float[Array, '*x']
  t: Float[Array, '*b']
  v: Float[Array, '*x']
  path: Path = Flow()
  logvar: Float[Array, 'b'] | None = None
  features: PyTree = ()

  def velocity(self) -> Float[Array, '*x']:
    """Velocity dx/dt in float32 (float64 if x is)."""
    return self.v.astype(jnp.promote_types(self.x.dtype, jnp.float32))

  def data(self) -> Float[Array, '*x']:
    """Data at the path's end, scaled as the autoencoder's latents."""
    return self.path.data(self.x, self.velocity(), self.t)

  def noise(self) -> Float[Array, '*x']:
    """Noise at the path's other end, of variance 1."""
    return self.path.noise(self.x, self.velocity(), self.t)


def _norm(t):
  """Length of (t, 1 - t)."""
  return jnp.sqrt(t**2 + (1 - t) ** 2)


def _like(t, x):
  """Times that broadcast over x, [b ...]."""
  t = jnp.asarray(t)
  return t.reshape(t.shape + (1,) * (x.ndim - 1) * (t.ndim > 0))
