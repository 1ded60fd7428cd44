"""Reconstruction of images by an autoencoder.

By default the loss is |e| + 2 e^2 + |grad e| / 2 on the error e, a weak penalty
on the latents, and a little noise on them for a robust decoder. The squared
error keeps training from stalling at reconstructions of the background only;
the gradients keep edges sharp. LPIPS and a PatchGAN are added by their weights.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sana_jax.objectives import adversarial
from sana_jax.objectives.base import Aux, Objective, Player
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Float, Keys, Params, PyTree, UInt8


def objective(
  module: nn.Module,
  weights: ConfigDict,
  *,
  rules: Table,
  side: int,
  lpips: nn.Module,
  discriminator: nn.Module,
) -> Objective:
  """Objective of the autoencoder `module`, and of the discriminator if used.

  Args:
    weights: config.loss.
    side: side of the images in pixels.
    lpips: distance of two images; its parameters are frozen['lpips'].
  """
  images = jnp.zeros((1, side, side, module.in_channels))

  def init(rng):
    params = module.init(rng, images)['params']
    if not weights.gan:
      return params
    return {
      **params,
      'discriminator': discriminator.init(jax.random.fold_in(rng, 1), images)[
        'params'
      ],
    }

  def frozen():
    return (
      {
        'lpips': jax.eval_shape(lpips.init, jax.random.key(0), images, images)[
          'params'
        ]
      }
      if weights.lpips
      else {}
    )

  loss = functools.partial(
    reconstruction_loss, module, weights, lpips, discriminator
  )
  players = (Player('model', loss),)
  if weights.gan:
    players = (
      Player('model', loss, 'encoder/.* decoder/.*'),
      Player(
        'discriminator',
        loss,
        'discriminator/.*',
        every=weights.gan_every,
        optimizer='discriminator',
        in_ema=False,
      ),
    )
  return Objective(
    init,
    rules,
    players,
    lambda batch_size: {
      'image': jax.ShapeDtypeStruct((batch_size, *images.shape[1:]), jnp.uint8)
    },
    frozen,
  )


def reconstruction_loss(
  module: nn.Module,
  weights: ConfigDict,
  lpips: nn.Module,
  discriminator: nn.Module,
  params: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
) -> tuple[Array, Aux]:
  """The weighted sum of all terms; also logs PSNR, LPIPS and the GAN terms."""
  images = to_signed(batch['image'])
  variables = {'params': autoencoder(params)}
  latents = module.apply(variables, images, method='encode')
  noise = weights.noise * jax.vmap(
    lambda rng: jax.random.normal(rng, latents.shape[1:])
  )(rngs)
  output = module.apply(
    variables, latents + noise.astype(latents.dtype), method='decode'
  )
  output = output.astype(jnp.float32)
  error = output - images
  mse = jnp.mean(error**2)
  gradient = sum(
    jnp.mean(jnp.abs(jnp.diff(error, axis=axis))) for axis in (1, 2)
  )
  latents = latents.astype(jnp.float32)
  centre = jnp.mean(jnp.mean(latents, axis=(0, 1, 2)) ** 2)
  loss = (
    weights.l1 * jnp.mean(jnp.abs(error))
    + weights.mse * mse
    + weights.gradient * gradient
    + weights.latent_l2 * jnp.mean(latents**2)
    + weights.latent_mean * centre
  )
  more, seen = 0.0, {}
  if weights.lpips:
    seen['lpips'] = jnp.mean(
      lpips.apply({'params': frozen['lpips']}, images, output)
    )
    more += weights.lpips * seen['lpips']
  if weights.gan:
    heard = step >= weights.gan_start
    both, terms = adversarial.both_players(
      discriminator,
      params['discriminator'],
      images,
      output,
      weights.gan * heard,
    )
    more, seen = more + both, seen | terms
  # Images span [-1, 1], a range of 2.
  return loss + more, Aux({'psnr': 10 * jnp.log10(4 / mse)} | seen)


def autoencoder(params: Params) -> Params:
  """The autoencoder's parameters, without the discriminator's."""
  return {side: params[side] for side in ('encoder', 'decoder')}


def to_signed(images: UInt8[Array, '*shape']) -> Float[Array, '*shape']:
  """Pixels in [-1, 1], in float32."""
  return images.astype(jnp.float32) / 127.5 - 1
