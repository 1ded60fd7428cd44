"""The keys of each task in addition to those of every run."""

from sana_jax.config import models
from sana_jax.diffusion import samplers
from sana_jax.fields import Field
from sana_jax.keys import (
  CACHE,
  CACHED_TEXT,
  FRACTION,
  Key,
  Location,
  NOT_NEGATIVE,
  NOTHING,
  one_of,
  POSITIVE,
  PROGRAM,
  RESULT,
  size,
)
from sana_jax.models.sana import ADDABLE
from sana_jax.optim.keys import KEYS as OPTIMIZER

_ORIGIN = one_of(('cached', 'online'))

# Flow matching has no guidance scale to embed.
_PARTS = tuple(name for name in ADDABLE if name != 'guidance_embeds')
_INIT = {
  'init_adds': Key(
    '',
    'Fields of config.model whose parts are added to the weights of '
    'init_from: norms of scale 1, or a time embedding refitted to another '
    "timestep_scale; '' for none.",
    Field(
      f'names with spaces between them, of {", ".join(_PARTS)}',
      lambda value: set(value.split()) <= set(_PARTS),
    ),
    NOTHING,
  )
}

_INPUTS = {  # Of the transformer: latents and text.
  'latents': Key(
    'cached',
    'Latents on disk, or encoded in the step: see docs/data.md.',
    _ORIGIN,
  ),
  'text': Key('cached', 'Text on disk, or encoded in the step.', _ORIGIN),
  'cache': Key(
    '',
    "Folder of `sana-jax data cache`; '' makes one in the workdir.",
    changes=NOTHING,
    location=Location(
      buckets=True,
      used=lambda values, begun: (
        'cached' in (values['inputs.latents'], values['inputs.text'])
      ),
    ),
  ),
  'dtype': Key(
    'float32',
    'Type of the cache.',
    one_of(('float32', 'bfloat16', 'float16')),
    RESULT | PROGRAM | CACHE,
  ),
  'aspect_ratios': Key(
    False,
    'Use the published ratios around size_px instead of squares only.',
    changes=RESULT | PROGRAM | CACHE,
  ),
  'text_length': Key(
    300,
    'Maximum number of tokens.',
    size(2**16),
    RESULT | PROGRAM | CACHED_TEXT,
  ),
}

_FLOW = {
  'density': Key(
    'logit_normal',
    'Distribution of the time.',
    one_of(('logit_normal', 'uniform')),
  ),
  'mean': Key(0.0, 'Mean of the logit.'),
  'std': Key(1.0, 'Standard deviation of the logit.', POSITIVE),
  'shift': Key(3.0, 'Shift of the time towards noise; 6 for 4K.', POSITIVE),
  'caption_dropout': Key(0.1, 'Fraction of dropped captions.', FRACTION),
  'instruction': Key(
    True,
    'Whether to prefix the complex human instruction.',
    changes=RESULT | PROGRAM | CACHED_TEXT,
  ),
}

_SAMPLING = {  # Of the grids drawn during training.
  'sampler': Key(
    'dpm++2m', 'Sampler of the grids in training.', one_of(samplers.NAMES)
  ),
  'steps': Key(20, 'Steps of the sampler.', POSITIVE),
  'guidance_scale': Key(
    4.5, 'Scale of classifier-free guidance.', NOT_NEGATIVE
  ),
  'shift': Key(3.0, 'Shift of the time towards noise.', POSITIVE),
  'images': Key(24, 'Images in a grid.', POSITIVE, RESULT),
}

_LOSS = {
  'l1': Key(1.0, 'Weight of the absolute error.', NOT_NEGATIVE),
  'mse': Key(
    2.0,
    'Weight of the squared error; without it, training first stalls at '
    'reconstructions of the background only.',
    NOT_NEGATIVE,
  ),
  'gradient': Key(
    0.5,
    'Weight of L1 of the differences between neighbours, for sharp edges.',
    NOT_NEGATIVE,
  ),
  'latent_l2': Key(
    1e-4, 'Weight that keeps latents near unit variance.', NOT_NEGATIVE
  ),
  'latent_mean': Key(
    1e-2,
    'Weight that centres latents, as the format has a scale but no shift.',
    NOT_NEGATIVE,
  ),
  'noise': Key(
    0.03, 'Noise on the latents, for a robust decoder.', NOT_NEGATIVE
  ),
  'lpips': Key(
    0.0, 'Weight of the perceptual distance with VGG16.', NOT_NEGATIVE
  ),
  'lpips_weights': Key(
    '',
    'Folder with its two files: docs/autoencoder.md.',
    location=Location(used=lambda values, begun: values['loss.lpips'] > 0),
  ),
  'gan': Key(
    0.0, 'Weight of the adversarial loss of a PatchGAN.', NOT_NEGATIVE
  ),
  'gan_start': Key(
    0,
    'Steps before the adversarial loss is enabled.',
    NOT_NEGATIVE,
  ),
  'gan_every': Key(1, 'Steps between updates of the discriminator.', POSITIVE),
}

_TEXT = {
  'vocabulary': Key(704, 'Number of tokens of the tokenizer.', POSITIVE),
  'length': Key(384, 'Tokens per sequence of packed captions.', POSITIVE),
  'examples': Key(4096, 'Number of distinct sequences.', POSITIVE),
  'look_back': Key(1.0, 'Weight of the loss of previous tokens.', NOT_NEGATIVE),
}


def _group(name, keys):
  return {f'{name}.{last}': key for last, key in keys.items()}


KEYS = {
  'sana': (
    _INIT
    | models.SANA
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
