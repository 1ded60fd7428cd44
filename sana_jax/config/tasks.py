"""The keys of each task besides those of every run."""

from sana_jax.config import models
from sana_jax.diffusion import samplers
from sana_jax.keys import (
  CACHE,
  CACHED_TEXT,
  FRACTION,
  Key,
  NOT_NEGATIVE,
  NOTHING,
  one_of,
  POSITIVE,
  PROGRAM,
  RESULT,
  size,
)
from sana_jax.optim.keys import KEYS as OPTIMIZER

_ORIGIN = one_of(('cached', 'online'))

_INPUTS = {  # Of the transformer: latents and text.
  'latents': Key(
    'cached',
    "'online' ones are encoded in the step: see docs/data.md.",
    _ORIGIN,
  ),
  'text': Key('cached', 'The same of the text.', _ORIGIN),
  'cache': Key(
    '',
    "Folder of `sana-jax data cache`; '' makes one in the workdir.",
    changes=NOTHING,
  ),
  'dtype': Key(
    'float32',
    'Of the cache.',
    one_of(('float32', 'bfloat16', 'float16')),
    RESULT | PROGRAM | CACHE,
  ),
  'aspect_ratios': Key(
    False,
    'The published ones around size_px, or squares alone.',
    changes=RESULT | PROGRAM | CACHE,
  ),
  'text_length': Key(
    300, 'Tokens at most.', size(2**16), RESULT | PROGRAM | CACHED_TEXT
  ),
}

_FLOW = {
  'density': Key(
    'logit_normal', 'Of the time.', one_of(('logit_normal', 'uniform'))
  ),
  'mean': Key(0.0, 'Of the logit.'),
  'std': Key(1.0, 'Of the logit.', POSITIVE),
  'shift': Key(3.0, 'Of the time towards noise; 6 for 4K.', POSITIVE),
  'caption_dropout': Key(
    0.1, 'Fraction of captions that are left out.', FRACTION
  ),
  'instruction': Key(
    True,
    'Prefix the complex human instruction.',
    changes=RESULT | PROGRAM | CACHED_TEXT,
  ),
}

_SAMPLING = {  # Of the grids drawn during training.
  'sampler': Key(
    'dpm++2m', 'Of the grids drawn during training.', one_of(samplers.NAMES)
  ),
  'steps': Key(20, 'Of the sampler.', POSITIVE),
  'guidance_scale': Key(4.5, 'Of classifier-free guidance.', NOT_NEGATIVE),
  'shift': Key(3.0, 'Of the time towards noise.', POSITIVE),
  'images': Key(24, 'In a grid.', POSITIVE, RESULT),
}

_LOSS = {
  'l1': Key(1.0, 'Weight of the absolute error.', NOT_NEGATIVE),
  'mse': Key(
    2.0,
    'Of the squared error; without it, training first rests at '
    '"paint the background".',
    NOT_NEGATIVE,
  ),
  'gradient': Key(
    0.5,
    'Of L1 of the differences between neighbours: sharp edges.',
    NOT_NEGATIVE,
  ),
  'latent_l2': Key(1e-4, 'Keeps latents near unit size.', NOT_NEGATIVE),
  'latent_mean': Key(
    1e-2, 'Centres latents: the layout has a scale but no shift.', NOT_NEGATIVE
  ),
  'noise': Key(
    0.03, 'On the latents, for a decoder that forgives.', NOT_NEGATIVE
  ),
  'lpips': Key(
    0.0, 'Of the perceptual distance by a trained VGG16.', NOT_NEGATIVE
  ),
  'lpips_weights': Key('', 'Folder with its two files: docs/autoencoder.md.'),
  'gan': Key(
    0.0, 'Of the loss by a PatchGAN discriminator, trained along.', NOT_NEGATIVE
  ),
  'gan_start': Key(
    0,
    'Steps that the discriminator learns before its loss counts.',
    NOT_NEGATIVE,
  ),
  'gan_every': Key(
    1, 'Steps between two updates of the discriminator.', POSITIVE
  ),
}

_TEXT = {
  'vocabulary': Key(704, 'Tokens of the tokenizer that is made.', POSITIVE),
  'length': Key(
    384, 'Tokens of a sequence, captions packed into it.', POSITIVE
  ),
  'examples': Key(4096, 'Different sequences.', POSITIVE),
  'look_back': Key(
    1.0, 'Weight of naming each token that was read.', NOT_NEGATIVE
  ),
}


def _group(name, keys):
  return {f'{name}.{last}': key for last, key in keys.items()}


KEYS = {
  'sana': (
    models.SANA
    | _group('inputs', _INPUTS)
    | _group('flow', _FLOW)
    | _group('sampling', _SAMPLING)
  ),
  # The discriminator has an optimizer of its own.
  'dc_ae': (
    models.DC_AE | _group('loss', _LOSS) | _group('discriminator', OPTIMIZER)
  ),
  'text_encoder': models.GEMMA2 | _group('text', _TEXT),
}
