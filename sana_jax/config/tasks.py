"""The keys of each task in addition to those of every run."""

import dataclasses

from sana_jax import fields
from sana_jax.config import growth, lora, models, preference
from sana_jax.data.annotators import NAMES
from sana_jax.diffusion import samplers
from sana_jax.fields import Field
from sana_jax.keys import (
  CACHE,
  CACHED_TEXT,
  FRACTION,
  Key,
  Location,
  most,
  NOT_NEGATIVE,
  NOTHING,
  one_of,
  POSITIVE,
  PROGRAM,
  RESULT,
  SHARE,
  size,
)
from sana_jax.models.controlnet import AFTER
from sana_jax.models.sana import ADDABLE
from sana_jax.optim.keys import KEYS as OPTIMIZER

_ORIGIN = one_of(('cached', 'online'))

# Flow matching has neither a guidance scale nor a log-variance.
_PARTS = tuple(
  name for name in ADDABLE if name not in ('guidance_embeds', 'logvar')
)
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

_PRIOR = {  # Prior preservation of DreamBooth.
  'class_prompt': Key(
    '',
    'Prompt of the class whose prior is preserved, or several with | between '
    "them: every second picture of a batch is one that init_from's model drew "
    "of it; '' for none.",
  ),
  'num_class_images': Key(
    100, 'Pictures of the class, drawn once, in the workdir.', POSITIVE
  ),
  'loss_weight': Key(1.0, 'Weight of their loss.', NOT_NEGATIVE),
  'path': Key(
    '',
    "Folder of such pictures, instead of drawn ones; '' draws them.",
    location=Location(
      buckets=True, used=lambda values, begun: bool(values['prior.path'])
    ),
  ),
}

_SPRINT = {
  'teacher': Key(
    '',
    "Model folder of the teacher; '' is that of init_from, and `none` trains "
    'on the data alone, with an EMA of the student as target.',
    location=Location(
      names=True, used=lambda values, begun: bool(values['sprint.teacher'])
    ),
  ),
  'loss': Key(
    'scm',
    'Continuous (sCM) or discrete consistency distillation.',
    one_of(('scm', 'discrete')),
  ),
  'weighting': Key(
    'flat',
    'Weight of angles; `published` needs model.logvar.',
    one_of(('flat', 'published')),
  ),
  'mean': Key(0.2, 'Mean of log(sigma tan t) of the angle t.'),
  'std': Key(1.6, 'Its standard deviation.', POSITIVE),
  'guidance_scales': Key(
    (4.0, 4.5, 5.0),
    "Scales of the teacher's guidance, one drawn for each image.",
    fields.list_of(fields.number(0, 1000), 1, 100),
  ),
  'tangent_warmup_steps': Key(
    4000, "Steps in which the tangent's second term rises.", NOT_NEGATIVE
  ),
  'tangent_norm': Key(
    0.1, 'Constant added to the norm that divides the tangent.', POSITIVE
  ),
  'max_tangent_ratio': Key(
    0.0,
    'A run ends if the norm of its tangents is over this many norms of its '
    'velocities; 0 disables it.',
    NOT_NEGATIVE,
    RESULT,
  ),
  'discrete_step': Key(
    0.15, "Angle of the teacher's step of the discrete loss.", POSITIVE
  ),
  'huber': Key(
    0.03, 'Length at which the discrete loss turns linear.', POSITIVE
  ),
  'target_decay': Key(
    0.0,
    "Decay of the EMA that is the discrete loss's target; 0 takes the student.",
    FRACTION,
  ),
}

_LADD = {  # The adversarial part of Sprint.
  'weight': Key(
    0.0, "Weight of the student's adversarial loss; 0 is without.", NOT_NEGATIVE
  ),
  'start': Key(0, "Student's steps before it is enabled.", NOT_NEGATIVE),
  'turns': Key(
    'alternate',
    'Whether the players take turns or move in each step.',
    one_of(('alternate', 'both')),
  ),
  'loss': Key('hinge', 'Adversarial loss.', one_of(('hinge', 'cross_entropy'))),
  'blocks': Key(
    (2, 8, 14, 19),
    "The teacher's blocks whose outputs are scored.",
    fields.list_of(fields.integer(0, 999), 1, 100),
  ),
  'r1': Key(0.0, 'Weight of the penalty on gradients (R1).', NOT_NEGATIVE),
  'mean': Key(-0.6, 'Mean of log(sigma tan t) of the angle of noise.'),
  'std': Key(1.0, 'Its standard deviation.', POSITIVE),
  'largest_time': Key(
    0.5, 'Fraction of generated latents that start at pure noise.', SHARE
  ),
  'misaligned': Key(
    True, 'Whether latents with a wrong caption count as generated.'
  ),
  'norm': Key('batch', 'Norm of the heads.', one_of(('batch', 'layer'))),
  'spectral': Key(True, 'Spectral norm of the kernels of the heads.'),
  'virtual_batch': Key(8, 'Examples that share batch statistics.', POSITIVE),
}

_CONTROLNET = {
  'base': Key(
    '',
    "Model folder of the frozen transformer; '' is that of init_from.",
    location=Location(
      names=True, used=lambda values, begun: bool(values['controlnet.base'])
    ),
  ),
  'depth': Key(7, 'Copied blocks, from the first on.', size(1000)),
  'wiring': Key(
    'diffusers',
    'Connection of the blocks: models/controlnet.py.',
    one_of(tuple(AFTER)),
  ),
  'annotator': Key(
    'canny',
    'Maker of the control images, or `files` to read them: docs/controlnet.md.',
    one_of(NAMES),
    RESULT,
  ),
  'path': Key(
    '',
    'Folder of the control images of `files`, named like the images.',
    changes=RESULT,
    location=Location(
      used=lambda values, begun: values['controlnet.annotator'] == 'files'
    ),
  ),
  'latents': Key(
    'cached',
    'Latents of the control images in the workdir, or encoded in the step.',
    _ORIGIN,
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
  'prompts': Key(
    '',
    "Prompts of the grids, with | between them; '' takes captions of the data.",
    changes=NOTHING,
  ),
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


_ADAPTED = {  # Preference tuning, whose reference has no adapter.
  **_group('lora', lora.KEYS),
  'lora.rank': dataclasses.replace(
    lora.KEYS['rank'],
    default=16,
    comment='Rank of the adapters, which train alone.',
    check=(POSITIVE, most(2**12)),
  ),
  **_group('flow', _FLOW),
  'flow.caption_dropout': dataclasses.replace(
    _FLOW['caption_dropout'], default=0.0
  ),
}

KEYS = {
  'sana': (
    _INIT
    | models.SANA
    | _group('grow', growth.KEYS)
    | _group('lora', lora.KEYS)
    | _group('inputs', _INPUTS)
    | _group('prior', _PRIOR)
    | _group('flow', _FLOW)
    | _group('sampling', _SAMPLING)
  ),
  'sprint': (
    models.SPRINT
    | _group('lora', lora.KEYS)
    | _group('inputs', _INPUTS)
    | _group('prior', _PRIOR)
    | _group('flow', {'instruction': _FLOW['instruction']})
    | _group('sprint', _SPRINT)
    | _group('ladd', _LADD)
    | _group('discriminator', OPTIMIZER)
    | _group('sampling', _SAMPLING)
  ),
  'controlnet': (
    models.SANA
    | _group('inputs', _INPUTS)
    | _group('flow', _FLOW)
    | _group('controlnet', _CONTROLNET)
    | _group('sampling', _SAMPLING)
  ),
  # The discriminator has an optimizer of its own.
  'dc_ae': (
    models.DC_AE | _group('loss', _LOSS) | _group('discriminator', OPTIMIZER)
  ),
  'text_encoder': models.GEMMA2 | _group('text', _TEXT),
  'dpo': (
    models.SANA
    | _ADAPTED
    | _group('inputs', _INPUTS)
    | _group('dpo', preference.DPO)
    | _group('sampling', _SAMPLING)
  ),
  'nft': (
    models.SANA
    | _ADAPTED
    | _group('inputs', {'text_length': _INPUTS['text_length']})
    | _group('nft', preference.NFT)
    | _group('sampling', _SAMPLING)
  ),
}
