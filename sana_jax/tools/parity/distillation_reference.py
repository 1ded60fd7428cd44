"""SANA-Sprint's losses in PyTorch, in float64, with diffusers' transformer.

They are stated as in the official code and papers (2503.09641, 2410.11081,
2403.12015), from samples of size sigma: x = cos t x0 + sin t z, and
F = F(x / sigma, t). Latents are [b c y x]. Random numbers are drawn as by
sana_jax, from a key for each image; all else is written independently. Unlike
in the official code, the empty caption has its own mask, a flat loss is a sum
over an example's elements, and a turn has one power iteration.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np
import torch
from torch import nn

from sana_jax.tools.parity import doubles, ladd_heads
from sana_jax.typing import Keys

SIGMA = 0.5
NEAR_PI_HALF = 1.5708


class Words(NamedTuple):
  """States and mask of captions, and of the empty one for each."""

  text: torch.Tensor
  mask: torch.Tensor
  null_text: torch.Tensor
  null_mask: torch.Tensor


class Networks(NamedTuple):
  """Networks in float64, and the settings of both losses."""

  student: nn.Module
  teacher: nn.Module | None
  target: nn.Module | None
  heads: Sequence[nn.Module]
  sprint: Mapping[str, Any]
  ladd: Mapping[str, Any]


class Draw(NamedTuple):
  """Noise, angles and guidance scales."""

  noise: torch.Tensor
  t: torch.Tensor
  scale: torch.Tensor | None = None


def over(values: torch.Tensor) -> torch.Tensor:
  """[b] -> [b 1 1 1]."""
  return values.view(-1, 1, 1, 1)


def predict(
  model: nn.Module,
  x: torch.Tensor,
  t: torch.Tensor,
  text: torch.Tensor,
  mask: torch.Tensor,
  scale: torch.Tensor | None = None,
  kept: Sequence[str] = (),
) -> tuple[torch.Tensor, list[Any]]:
  """F at x / sigma, as SanaSprintPipeline converts the flow's velocity."""
  time = torch.sin(t) / (torch.cos(t) + torch.sin(t))
  s = over(time)
  size = torch.sqrt(s**2 + (1 - s) ** 2)
  inside = x * size
  v, found = doubles.call(
    model,
    inside,
    1000 * time * model.config.timestep_scale,
    text,
    mask,
    None if scale is None else scale * model.config.guidance_embeds_scale,
    kept,
  )
  f = ((1 - 2 * s) * inside + (1 - 2 * s + 2 * s**2) * v) / size
  return f, found


def with_logvar(nets: Networks, x, draw: Draw, words: Words):
  """The student's F at x, and its log-variance [b], or None."""
  f, [(_, time)] = predict(
    nets.student,
    x / SIGMA,
    draw.t,
    words.text,
    words.mask,
    draw.scale,
    ['time_embed'],
  )
  head = getattr(nets.student, 'logvar', None)
  return f, None if head is None else head(time)[:, 0]


def normal(keys: Keys, latents: torch.Tensor) -> torch.Tensor:
  """Noise of images [b c y x], drawn with channels last."""
  _, c, y, x = latents.shape
  noise = jax.vmap(lambda key: jax.random.normal(key, (y, x, c)))(keys)
  return torch.from_numpy(np.array(noise)).double().permute(0, 3, 1, 2)


def angles(keys: Keys, settings: Mapping[str, Any]) -> torch.Tensor:
  """Angles whose tangent is log-normal."""
  z = torch.from_numpy(np.array(jax.vmap(jax.random.normal)(keys))).double()
  tau = torch.exp(settings['mean'] + settings['std'] * z)
  return torch.atan(tau / SIGMA)


def scales(keys: Keys, settings: Mapping[str, Any]) -> torch.Tensor:
  """Guidance scales of the settings."""
  choices = np.float32(settings['guidance_scales'])
  drawn = jax.vmap(lambda key: jax.random.choice(key, choices))(keys)
  return torch.from_numpy(np.array(drawn)).double()


def split(keys: Keys, parts: int) -> Keys:
  """Keys [parts b] from those of images."""
  return jax.vmap(lambda key: jax.random.split(key, parts), out_axes=1)(keys)


def noised(x0: torch.Tensor, draw: Draw) -> torch.Tensor:
  """Samples of size sigma."""
  t = over(draw.t)
  return torch.cos(t) * x0 + torch.sin(t) * SIGMA * draw.noise


def speed(nets: Networks, x0, x, draw: Draw, words: Words) -> torch.Tensor:
  """dx/dt: the teacher's with guidance, or that of the data."""
  t = over(draw.t)
  if nets.teacher is None:
    return torch.cos(t) * SIGMA * draw.noise - torch.sin(t) * x0
  with torch.no_grad():
    of = lambda *words: (
      SIGMA * predict(nets.teacher, x / SIGMA, draw.t, *words)[0]
    )
    u = of(words.null_text, words.null_mask)
    c = of(words.text, words.mask)
  return u + over(draw.scale) * (c - u)


class Tangent(NamedTuple):
  """F without gradient, w = sigma dF, and g; see the top of consistency.py."""

  f: torch.Tensor
  w: torch.Tensor
  g: torch.Tensor


def tangent(
  nets: Networks, x, dx, draw: Draw, words: Words, warm: float
) -> Tangent:
  """Algorithm 1 of 2410.11081, by `torch.func.jvp`."""
  cos, sin = torch.cos(draw.t), torch.sin(draw.t)
  both = over(cos * sin)
  network = lambda x, t: predict(
    nets.student, x, t, words.text, words.mask, draw.scale
  )[0]
  with torch.no_grad(), warnings.catch_warnings():
    # PyTorch's forward mode compiles its rules by a deprecated function.
    warnings.simplefilter('ignore', DeprecationWarning)
    f, df = torch.func.jvp(
      network, (x / SIGMA, draw.t), (both * dx / SIGMA, cos * sin)
    )
  w = SIGMA * df
  g = -(over(cos) ** 2) * (SIGMA * f - dx) - warm * (both * x + w)
  return Tangent(f, w, g)


def weigh(nets: Networks, errors, pixels, t, logvar) -> torch.Tensor:
  """Mean of errors that are sums over an example's elements."""
  if nets.sprint['weighting'] == 'flat':
    return errors.mean()
  weight = 1 / (SIGMA * torch.tan(t))
  return (weight / logvar.exp() * errors / pixels + logvar).mean()


def consistency(
  nets: Networks, latents, words: Words, keys: Keys, warm: float
) -> torch.Tensor:
  """The consistency loss of the settings."""
  noise, angle, scale = split(keys, 3)
  draw = Draw(
    normal(noise, latents),
    angles(angle, nets.sprint),
    scales(scale, nets.sprint),
  )
  x0 = SIGMA * latents
  x = noised(x0, draw)
  dx = speed(nets, x0, x, draw, words)
  loss = scm if nets.sprint['loss'] == 'scm' else discrete
  return loss(nets, x, dx, draw, words, warm)


def scm(nets: Networks, x, dx, draw: Draw, words: Words, warm) -> torch.Tensor:
  """The continuous loss."""
  frozen, _, g = tangent(nets, x, dx, draw, words, warm)
  norm = g.flatten(1).norm(dim=1)
  g = g / (over(norm) + nets.sprint['tangent_norm'])
  f, logvar = with_logvar(nets, x, draw, words)
  errors = (f - frozen - g).pow(2).flatten(1).sum(1)
  return weigh(nets, errors, x[0].numel(), draw.t, logvar)


def discrete(
  nets: Networks, x, dx, draw: Draw, words: Words, warm
) -> torch.Tensor:
  """The discrete loss: a rotation by the teacher, then pseudo-Huber."""
  del warm
  t = draw.t
  s = (t - nets.sprint['discrete_step']).clamp(min=0)
  ahead = torch.cos(over(s - t)) * x + torch.sin(over(s - t)) * dx
  f, logvar = with_logvar(nets, x, draw, words)
  data = torch.cos(over(t)) * x / SIGMA - torch.sin(over(t)) * f
  with torch.no_grad():
    other = nets.target or nets.student
    f, _ = predict(other, ahead / SIGMA, s, words.text, words.mask, draw.scale)
    goal = torch.cos(over(s)) * ahead / SIGMA - torch.sin(over(s)) * f
  h = nets.sprint['huber'] * x[0].numel() ** 0.5
  errors = ((data - goal).pow(2).flatten(1).sum(1) + h**2).sqrt() - h
  return weigh(nets, errors, x[0].numel(), t, logvar)


def fakes(nets: Networks, latents, words: Words, keys: Keys) -> torch.Tensor:
  """The student's data in one step, of size one."""
  noise, angle, scale, largest = split(keys, 4)
  share = nets.ladd['largest_time']
  largest = jax.vmap(lambda key: jax.random.bernoulli(key, share))(largest)
  t = angles(angle, nets.sprint)
  t = torch.where(torch.from_numpy(np.array(largest)), NEAR_PI_HALF, t)
  draw = Draw(normal(noise, latents), t, scales(scale, nets.sprint))
  x = noised(SIGMA * latents, draw)
  f, _ = with_logvar(nets, x, draw, words)
  return torch.cos(over(t)) * x / SIGMA - torch.sin(over(t)) * f


def features(
  nets: Networks, latents, words: Words, keys: Keys, number: int
) -> list[torch.Tensor]:
  """The teacher's features of noised latents, the group of this number."""
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 2 + number))(keys)
  noise, angle = split(keys, 2)
  draw = Draw(normal(noise, latents), angles(angle, nets.ladd))
  names = [f'transformer_blocks.{i}' for i in nets.ladd['blocks']]
  x = noised(SIGMA * latents, draw)
  return predict(
    nets.teacher, x / SIGMA, draw.t, words.text, words.mask, kept=names
  )[1]


def logits(nets: Networks, found: Sequence[torch.Tensor]) -> torch.Tensor:
  """Logits of all heads."""
  return torch.cat([h(x) for h, x in zip(nets.heads, found)], dim=1)


def iterate(nets: Networks) -> None:
  """One power iteration of each spectral norm, as in a call in training."""
  for head in nets.heads:
    width = len(head.first_norm.weight)
    head.train()(torch.zeros(1, 16, width, dtype=torch.float64))
    head.eval()


def adversarial(
  nets: Networks, latents, words: Words, keys: Keys
) -> torch.Tensor:
  """The student's weighted loss."""
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
  fake = fakes(nets, latents, words, keys)
  generator, _ = ladd_heads.LOSSES[nets.ladd['loss']]
  scores = logits(nets, features(nets, fake, words, keys, 0))
  return nets.ladd['weight'] * generator(scores)


def discriminator(
  nets: Networks, latents, words: Words, keys: Keys
) -> torch.Tensor:
  """The discriminator's loss, with R1 if weighted."""
  keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
  with torch.no_grad():
    groups = [fakes(nets, latents, words, keys), latents]
    if nets.ladd['misaligned']:
      groups.append(torch.cat([latents[-1:], latents[:-1]]))
    found = [
      features(nets, group, words, keys, i) for i, group in enumerate(groups)
    ]
  fake, real, *wrong = (logits(nets, x) for x in found)
  _, loss = ladd_heads.LOSSES[nets.ladd['loss']]
  total = loss(real, torch.cat([fake, *wrong]))
  if nets.ladd['r1']:
    of_real = [x.requires_grad_() for x in found[1]]
    total = total + nets.ladd['r1'] * ladd_heads.penalty(nets.heads, of_real)
  return total
