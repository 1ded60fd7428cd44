"""The base of every config: each key with its type, default and comment.

An experiment in configs/ takes `train()` and assigns what differs. Configs are
locked, so that a typo raises; `check` runs before any device is touched.
"""

from collections.abc import Sequence
import functools
import math
from typing import Any

from ml_collections import ConfigDict

from sana_jax.data import captions, records, remembered, sources
from sana_jax.diffusion import samplers
from sana_jax.errors import UserError
from sana_jax.kernels import OPS
from sana_jax.models import dc_ae, gemma2, remat
from sana_jax.optim import freezing

# Fields of models.sana.Sana, for the published sizes (diffusers' configs).
_600M = dict(width=1152, depth=28, cross_heads=16)
_1600M = dict(width=2240, depth=20, cross_heads=20)
_NORMED = dict(qk_norm=True, cross_norm=True)
SANA_SIZES = {
  'sana_600m_512': dict(_600M, sample_size=16),
  'sana_600m_1024': dict(_600M, sample_size=32),
  'sana_1600m_512': dict(_1600M, sample_size=16),
  'sana_1600m_1024': dict(_1600M, sample_size=32),
  'sana_1600m_2k': dict(_1600M, sample_size=64, interpolation_scale=1.0),
  'sana_1600m_4k': dict(_1600M, sample_size=128, interpolation_scale=2.0),
  'sana15_1600m_1024': dict(_1600M, **_NORMED),
  'sana15_3200m_1024': dict(_1600M, **_NORMED) | dict(depth=40),
  'sana15_4800m_1024': dict(_1600M, **_NORMED) | dict(depth=60),
  'sana_sprint_600m_1024': dict(_600M, **_NORMED, guidance_embeds=True),
  'sana_sprint_1600m_1024': dict(_1600M, **_NORMED, guidance_embeds=True),
  'sana_sprint_600m_1024_teacher': dict(_600M, **_NORMED, timestep_scale=0.001),
  'sana_sprint_1600m_1024_teacher':
    dict(_1600M, **_NORMED, timestep_scale=0.001),
}

TASKS = ('sana', 'dc_ae', 'text_encoder')  # That are shipped.


def parse_arg(arg: str, allowed: Sequence[str] = ('quick',)) -> str:
  """The part behind the colon in --config=FILE:ARG; UserError if unknown."""
  if arg and arg not in allowed:
    raise UserError(f'The config has no variant {arg!r}; allowed are '
                    f'{", ".join(allowed)}, or none.')
  return arg


def train(task: str) -> ConfigDict:
  """A training run with every key at its default, locked."""
  config = ConfigDict()
  config.task = task  # 'sana', 'dc_ae' or 'text_encoder'.
  config.dtype = 'float32'  # Of the arithmetic.
  # Of the stored parameters; 'bfloat16' ones are rounded stochastically at each
  # step. Their average and the optimizer's state are float32 in any case.
  config.param_dtype = 'float32'
  config.seed = 0  # Decides initial values, data order and noise.
  # A model folder, hub id or name of the zoo whose weights step 0 has, of the
  # same architecture; '' draws fresh ones.
  config.init_from = ''
  # What trains: patterns of whole paths, 'decoder/.* encoder/conv_out/.*'; the
  # rest stays as it is. '' for all.
  config.trainable = ''
  config.num_steps = 1000
  config.batch_size = 32  # Over all devices.
  config.accumulate_steps = 1  # Parts of a batch, one after the other.
  config.ema_decay = 0.999  # 0 exports the raw weights.
  config.max_skipped_in_a_row = 20  # Updates that were not finite.
  config.max_skipped_fraction = 0.1  # More, and no model is exported.
  config.log_every_steps = 50
  config.checkpoint_every_steps = 500
  config.keep_checkpoints = 2
  config.keep_every_steps = 0  # One of so many steps is kept for ever.
  config.checkpoint_cache = ''  # Folder of each host's own: /dev/shm, an SSD.
  config.cache_every_steps = 100
  config.pictures_every_steps = 1000  # Sample grid and loss curve; 0 for none.
  config.watch = ConfigDict(dict(  # What is warned of; it stops nothing.
    stall_minutes=10.0,  # Without a step's end; 0 for no word.
    divergence_factor=5.0))  # Of loss or norm to its median; 0 for no word.
  config.mesh = ConfigDict(dict(
    data=-1, fsdp=1, tensor=1, sequence=1,
    slices=1,  # So many such meshes, joined along data over slow links.
  ))
  # Backends by name; '' is the fastest that can run. See docs/kernels.md.
  config.kernels = ConfigDict({op: '' for op in OPS})
  config.optimizer = _optimizer()
  config.data = _data()
  config.autoencoder = ''  # Model folder whose vae/ encodes, for 'sana'.
  config.text_encoder = ''  # Whose text_encoder/ and tokenizer/ do.
  if task == 'sana':
    config.model = _sana()
    config.inputs = _inputs()
    config.flow = _flow()
    config.sampling = _sampling()
  elif task == 'dc_ae':
    config.model = ConfigDict(dict(dc_ae.SIZES['dc_ae_f32c32_sana']))
    config.loss = _reconstruction()
    config.discriminator = _optimizer()  # Its own, where it trains along.
  elif task == 'text_encoder':
    config.model = ConfigDict(dict(gemma2.SIZES['gemma2_2b']))
    config.text = _language_model()
  else:
    from sana_jax.tasks import registry  # It needs what training needs.
    config.update(ConfigDict(dict(registry.find(task).keys())))
  return config.lock()


def _sana():
  return ConfigDict(dict(  # Fields of models.sana.Sana.
    **_600M, sample_size=32, qk_norm=False, cross_norm=False,
    text_norm_scale=0.01,
    remat='none',  # Or 'full', 'dots', 'offload': see models/remat.py.
    unroll=1,  # Blocks an iteration of the scan: more compile time, speed.
  ))


def _optimizer():
  return ConfigDict(dict(
    name='adamw',  # 'came', 'came_8bit', 'muon', ...: see docs/optimizers.md.
    learning_rate=1e-4,
    # Times sqrt(batch_size / 256) for 'sqrt', batch_size / 256 for 'linear'.
    auto_lr='',
    schedule='constant',  # After the warm-up; see optim/schedules.py.
    warmup_steps=0,
    decay_fraction=0.3,  # Of the run; see the schedules that have it.
    final_scale=0.1,  # 'cosine_decay_to_constant' ends at this times the rate.
    weight_decay=0.0,
    b1=0.9,
    b2=0.999,
    clip_norm=0.1,  # Global norm of the gradient; 0 for none.
  ))


def _data():
  return ConfigDict(dict(
    source='shapes',  # 'tfds', 'folder', 'webdataset', ...: docs/data.md.
    path='~/.cache/sana_jax/data',  # Where it lies, or is put (shapes).
    split='train',  # Of 'shapes' and 'tfds'; the others have none.
    size_px=64,  # Side of the images; of the square ones, of several ratios.
    threads=4,  # That read ahead, each a batch; 0 for small data in memory.
    examples=24_000,  # To render, for 'shapes'.
    columns=ConfigDict(dict(  # Of 'parquet'; several are 'a,b'.
      image='image', captions='caption',
      scores='',  # CLIP scores of the captions, in their order.
      height='height', width='width',  # Spare reading the images' headers.
    )),
    caption_rule='official',  # 'paper', 'first', 'uniform': data/captions.py.
    caption_threshold=25.0,  # CLIP score, for 'official'.
    caption_temperature=0.1,
    min_score=0.0,  # CLIP score; 22 in the published runs, 0 for any.
    min_size_px=0,  # Of the shorter side as stored; 0 for any.
    max_aspect_ratio=0.0,  # Of the longer side to the shorter; 0 for any.
    max_bad_fraction=records.MAX_BAD_FRACTION,  # More stop the run.
    index_path=remembered.CACHE,  # Of what was found out about files; or ''.
  ))


def _inputs():
  return ConfigDict(dict(  # Of the transformer: latents and text.
    latents='cached',  # Or 'online': encoded in the step; see docs/data.md.
    text='cached',  # Or 'online'.
    cache='',  # Of `sana-jax data cache`; '' makes one in the workdir.
    dtype='float32',  # That a cache is kept in.
    aspect_ratios=False,  # The published ones around size_px, or squares alone.
    text_length=300,  # Tokens at most.
  ))


def _flow():
  return ConfigDict(dict(
    density='logit_normal',  # Of the time: or 'uniform'.
    mean=0.0,
    std=1.0,
    shift=3.0,  # Of the time towards noise; 6 for 4K.
    caption_dropout=0.1,
    instruction=True,  # Prefix the complex human instruction.
  ))


def _sampling():
  return ConfigDict(dict(  # Of the grids drawn during training.
    sampler='dpm++2m', steps=20, guidance_scale=4.5, shift=3.0, images=24))


def _reconstruction():
  return ConfigDict(dict(
    l1=1.0,
    mse=2.0,  # Without it, training first rests at "paint the background".
    gradient=0.5,  # L1 of the differences between neighbours: sharp edges.
    latent_l2=1e-4,  # Keeps latents near unit size.
    latent_mean=1e-2,  # Centres them: the layout has a scale but no shift.
    noise=0.03,  # On the latents, for a decoder that forgives.
    lpips=0.0,  # Perceptual distance, by a trained VGG16.
    lpips_weights='',  # Folder with its two files: see docs/autoencoder.md.
    gan=0.0,  # What a PatchGAN discriminator, trained along, says.
    gan_start=0,  # Steps that the discriminator learns before it is heard.
    gan_every=1,  # Steps between two updates of the discriminator.
  ))


def _language_model():
  return ConfigDict(dict(
    vocabulary=704,
    length=384,  # Tokens of a training sequence, captions packed into it.
    examples=4096,  # Different sequences.
    look_back=1.0,  # Weight of naming each token that was read.
  ))


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Assigns `--config.key=value` arguments, each to the type of its key."""
  for argument in overrides:
    name, equals, text = argument.partition('=')
    if not name.startswith('--config.') or not equals:
      raise UserError(
        f'Unknown argument {argument!r}; overrides look like '
        f'--config.batch_size=64.')
    _assign(config, name.removeprefix('--config.'), text)


def _assign(config, key, text):
  *parents, last = key.split('.')
  node = config
  for part in parents:
    node = node[part] if isinstance(node, ConfigDict) and part in node else None
  if not isinstance(node, ConfigDict) or last not in node:
    allowed = sorted(node if isinstance(node, ConfigDict) else flatten(config))
    raise UserError(f'There is no config.{key}; allowed are {allowed}.')
  node[last] = _parse(key, text, node[last])


def _parse(key, text, current):
  if isinstance(current, ConfigDict):
    raise UserError(
      f'config.{key} is a group; assign one of {sorted(current)}.')
  kind = type(current)
  if kind not in _KINDS:
    raise UserError(f'config.{key} cannot be set from the command line.')
  try:
    if kind is bool:
      return {'true': True, 'false': False}[text.lower()]
    return kind(text)
  except (KeyError, ValueError):
    raise UserError(f'config.{key}={text!r} must be {_KINDS[kind]}.') from None


def flatten(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  """Values by their dotted key."""
  out = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      out |= flatten(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out


def check_keys(config: ConfigDict) -> None:
  """Raises UserError unless the keys are those of `train(config.task)`.

  Those of config.model depend on its size and are the task's to check.
  """
  ours = lambda c: {k for k in flatten(c) if not k.startswith('model.')}
  want, have = ours(train(config.get('task'))), ours(config)
  problems = [f'config.{key} is missing' for key in sorted(want - have)]
  problems += [f'config.{key} is unknown' for key in sorted(have - want)]
  if problems:
    raise UserError(f'{"; ".join(problems)}; take config.train({config.task!r})'
                    ' and assign what differs.')


def check(config: ConfigDict) -> None:
  """Raises one UserError that names every bad value."""
  problems = [
    f'config.{key}={value!r} must be {what}'
    for key, value in flatten(config).items()
    if (what := _violated(key, value))]
  if not problems and config.keep_every_steps % config.checkpoint_every_steps:
    problems = [
      f'config.keep_every_steps={config.keep_every_steps} must be a multiple '
      f'of checkpoint_every_steps={config.checkpoint_every_steps}, or 0']
  if 'model' in config and not problems:
    problems = _misfits(config.model)
    if config.task == 'sana' and config.model.remat not in remat.NAMES:
      problems.append(f'config.model.remat={config.model.remat!r} must be one '
                      f'of {list(remat.NAMES)}')
  if problems:
    raise UserError('; '.join(problems) + '.')
  freezing.compiled(config.get('trainable', ''))


_KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number',
          str: 'text'}
_POSITIVE = ('num_steps', 'batch_size', 'accumulate_steps',
             'log_every_steps', 'keep_checkpoints', 'cache_every_steps',
             'checkpoint_every_steps', 'data.size_px', 'data.examples',
             'flow.shift', 'flow.std', 'sampling.steps', 'sampling.images',
             'sampling.shift', 'max_skipped_in_a_row', 'text.vocabulary',
             'text.length', 'text.examples', 'data.caption_temperature',
             'inputs.text_length', 'loss.gan_every')
_NOT_NEGATIVE = ('seed', 'keep_every_steps', 'pictures_every_steps',
                 'sampling.guidance_scale',
                 'loss.l1', 'loss.mse', 'loss.gradient', 'loss.latent_l2',
                 'loss.latent_mean', 'loss.noise', 'loss.lpips', 'loss.gan',
                 'loss.gan_start', 'text.look_back',
                 'watch.stall_minutes', 'watch.divergence_factor',
                 'data.caption_threshold', 'data.min_score',
                 'data.min_size_px', 'data.max_aspect_ratio', 'data.threads')
# Larger ones take all memory before anything can be checked.
_MOST = {'data.size_px': 2**14, 'inputs.text_length': 2**16,
         'model.depth': 10_000, 'data.threads': 1000, 'model.unroll': 10_000}
_FRACTION = ('ema_decay', 'flow.caption_dropout')
_SHARE = ('data.max_bad_fraction', 'max_skipped_fraction')
_CHOICES = {
  'dtype': ('float32', 'bfloat16'),  # float16 would need loss scaling.
  'param_dtype': ('float32', 'bfloat16'),
  'data.source': sources.KINDS,
  'data.caption_rule': captions.RULES,
  'inputs.latents': ('cached', 'online'),
  'inputs.text': ('cached', 'online'),
  'inputs.dtype': ('float32', 'bfloat16', 'float16'),
  'flow.density': ('logit_normal', 'uniform'),
  'sampling.sampler': samplers.NAMES,
  **{f'kernels.{name}': ('', *op.implementations) for name, op in OPS.items()},
}


def _violated(key, value):
  """What the value must be and is not; optim/factory.py has the optimizer's."""
  if key == 'task' and value not in TASKS:
    train(value)  # Raises for an unknown one.
  kind = _kinds().get(key)
  if kind is float and type(value) is int:
    value = float(value)
  if kind and type(value) is not kind:
    return _KINDS[kind]
  if kind is float and not math.isfinite(value):
    return 'finite'
  whole_field = key.startswith('model.') and kind is int
  if (key in _POSITIVE or whole_field) and value <= 0:
    return 'positive'
  if key in _NOT_NEGATIVE and value < 0:
    return 'zero or more'
  if key == 'watch.divergence_factor' and 0 < value <= 1:
    return 'more than 1, or 0'
  if kind is int and value >= 2**31:
    return 'less than 2 ** 31'
  if key in _MOST and value > _MOST[key]:
    return f'at most {_MOST[key]}'
  if key == 'checkpoint_cache' and '://' in value:
    return 'a local folder, of each host\'s own'
  if key in _FRACTION and not 0 <= value < 1:
    return 'at least 0 and less than 1'
  if key in _SHARE and not 0 <= value <= 1:
    return 'from 0 to 1'
  if key == 'data.max_aspect_ratio' and 0 < value < 1:
    return '1 or more, or 0 for any'
  if key in _CHOICES and value not in _CHOICES[key]:
    return f'one of {list(_CHOICES[key])}'
  return None


@functools.cache
def _kinds():
  """The type of each key that has one of the plain ones, in any task."""
  return {key: type(value) for task in TASKS
          for key, value in flatten(train(task)).items()
          if type(value) in _KINDS}


def _misfits(model):
  """Widths that do not split into their heads."""
  pairs = [(key, by, model[by]) for key, by in (
    ('width', 'cross_heads'), ('width', 'heads'), ('heads', 'kv_heads'))
    if by in model]
  if 'cross_heads' in model:  # The transformer; its heads have 32 channels.
    pairs.append(('width', 'head_dim', model.get('head_dim', 32)))
  return [f'config.model.{key}={model[key]} must be a multiple of {by}={size}'
          for key, by, size in pairs if model[key] % size]


def dc_ae_fields(
  latent_channels: int, widths: Sequence[int], depths: Sequence[int],
  attention_stages: int,
) -> ConfigDict:
  """A DC-AE in the style of SANA's, its last stages with linear attention."""
  plain = len(widths) - attention_stages
  blocks = ('ResBlock',) * plain + ('EfficientViTBlock',) * attention_stages
  scales = ((),) * plain + ((5,),) * attention_stages
  return ConfigDict(dict(
    dc_ae.SIZES['dc_ae_f32c32_sana'], latent_channels=latent_channels,
    encoder_blocks=blocks, decoder_blocks=blocks, encoder_scales=scales,
    decoder_scales=scales, encoder_widths=tuple(widths),
    decoder_widths=tuple(widths), encoder_depths=tuple(depths),
    decoder_depths=tuple(depths), decoder_norms=('rms_norm',) * len(widths),
    decoder_acts=('silu',) * len(widths)))
