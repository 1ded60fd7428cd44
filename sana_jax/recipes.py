"""Common settings of SANA's published training runs, and their tiny versions.

Values are those of NVlabs/Sana's released yaml files, which fix everything but
the number of steps and of GPUs; these are our choice, as each config notes.
"""

from ml_collections import ConfigDict

from sana_jax import config as base

VARIANTS = ('runlocal',)


def published(size: str) -> ConfigDict:
  """Config of a run of `size`, a key of config.SANA_SIZES, at its resolution.

  CAME at 1e-4 for a batch of 256, times sqrt(batch / 256), constant after a
  warm-up of 2000 steps; gradients clipped at 0.1; bfloat16 with float32
  weights; 40 aspect ratios; captions by CLIP score.
  """
  config = base.train('sana')
  config.model = ConfigDict(
    {**config.model, **base.SANA_SIZES[size], 'remat': 'full'}
  )
  config.dtype = 'bfloat16'
  config.batch_size = 1024
  config.ema_decay = 0.0
  config.optimizer.update(
    name='came', learning_rate=1e-4, auto_lr='sqrt', warmup_steps=2000
  )
  config.data.update(
    source='webdataset',
    path='data/*.tar',
    threads=16,
    size_px=32 * config.model.sample_size,
  )
  config.inputs.update(aspect_ratios=True, dtype='bfloat16')
  config.autoencoder = config.text_encoder = 'sana_1600m_1024'
  config.mesh.update(data=1, fsdp=-1)
  config.checkpoint_every_steps = 500
  config.pictures_every_steps = 2000
  config.log_every_steps = 20
  return config


def sprint(size: str) -> ConfigDict:
  """Config of the distillation of `size` from a teacher of the same size.

  Two players that take turns: sCM and LADD with weights 1 and 0.5 of means over
  elements (arXiv:2503.09641, section 3.3), CAME at 2e-6, clipped at 0.1.
  """
  config = base.train('sprint')
  shared = published(size)
  for key, value in shared.items():
    if key in config and key not in ('task', 'model', 'sampling', 'flow'):
      config[key] = value
  config.model.update(
    {k: x for k, x in shared.model.items() if k in config.model}
  )
  config.model.update(base.SANA_SIZES[size])
  config.model.update(
    timestep_scale=0.001, guidance_embeds_scale=10.0, logvar=True
  )
  config.sprint.weighting = 'published'
  config.ladd.weight = 0.5
  config.sampling.update(sampler='scm', steps=2)
  config.num_steps = 40_000  # 20,000 of each player.
  config.batch_size = 512
  config.ema_decay = 0.999
  for group in config.optimizer, config.discriminator:
    group.update(name='came', learning_rate=2e-6, auto_lr='', warmup_steps=5000)
  return config


def controlnet(size: str) -> ConfigDict:
  """Config of a ControlNet's training for the published model of `size`.

  Seven blocks, CAME at 1e-4 for a batch of 256 with 30 steps of warm-up, as in
  the released yaml, whose training script is not public; captions dropped as
  for the base.
  """
  config = base.train('controlnet')
  shared = published(size)
  for key, value in shared.items():
    if key in config and key not in ('task', 'model'):
      config[key] = value
  config.model = shared.model
  config.controlnet.update(depth=7, wiring='official', annotator='scribble')
  config.init_from = size
  config.ema_decay = 0.999
  config.num_steps = 20_000
  config.batch_size = 256
  config.optimizer.warmup_steps = 30
  return config


def variant(config: ConfigDict, arg: str) -> ConfigDict:
  """The config, reduced to two steps of a tiny model if `arg` is 'runlocal'."""
  if base.parse_arg(arg, VARIANTS):
    run_locally(config)
  return config


def run_locally(config: ConfigDict) -> None:
  """Reduces a config to two steps of a tiny model on `shapes`, on a CPU.

  Uses the shipped encoders. Unchanged: norms, position embedding, optimizer,
  precision, memory policy and inputs.
  """
  config.autoencoder = config.text_encoder = 'shapes'
  config.init_from = ''
  config.model.update(width=64, depth=2, cross_heads=2, sample_size=2)
  config.data.update(
    source='shapes',
    path='~/.cache/sana_jax/data',
    size_px=64,
    examples=64,
    threads=0,
    min_score=0.0,
    min_size_px=0,
  )
  config.update(
    num_steps=2,
    batch_size=16,
    log_every_steps=1,
    checkpoint_every_steps=2,
    pictures_every_steps=0,
  )
  config.optimizer.warmup_steps = 1
  if config.task == 'sana' and config.grow.strategy:
    _grow_locally(config)
  if config.task == 'sprint':
    _distil_locally(config)
  if config.task == 'controlnet':
    _control_locally(config)


def _grow_locally(config):
  """Reduces a growth to one of the shipped model by two blocks."""
  _shipped(config)
  config.model.depth += 2


def _control_locally(config):
  """Reduces a ControlNet to one of the shipped model."""
  _shipped(config)
  config.data.split = 'train_free'
  config.controlnet.update(depth=2, annotator='masks')
  config.batch_size = 8


def _shipped(config):
  """Sets the model to the shipped one, of which a folder is at hand."""
  config.init_from = 'shapes'
  config.model.update(
    width=128,
    depth=6,
    cross_heads=4,
    sample_size=4,
    qk_norm=False,
    cross_norm=False,
  )
  config.data.size_px = 128


def _distil_locally(config):
  """Reduces a distillation to one of the shipped model, the only teacher."""
  _shipped(config)
  config.ladd.blocks = (0, 5)
  config.batch_size = 8


def run_autoencoder_locally(config: ConfigDict) -> None:
  """Reduces a dc_ae config to two steps of a tiny model, on a CPU."""
  config.model = base.dc_ae_fields(
    latent_channels=4, widths=(8, 32), depths=(1, 1), attention_stages=1
  )
  config.loss.lpips = 0.0  # Its weights may not be available.
  config.data.update(
    source='shapes',
    path='~/.cache/sana_jax/data',
    size_px=32,
    examples=64,
    min_size_px=0,
  )
  config.update(
    num_steps=2, batch_size=8, dtype='float32', log_every_steps=1, init_from=''
  )
  config.optimizer.warmup_steps = 0


def dc_ae_phase(size_px: int) -> ConfigDict:
  """Config of DC-AE as in its paper: on photographs, with L1 and LPIPS."""
  config = base.train('dc_ae')
  config.dtype = 'bfloat16'
  config.data.update(source='folder', size_px=size_px, min_size_px=size_px)
  config.loss.update(
    l1=1.0,
    lpips=1.0,
    lpips_weights='~/.cache/sana_jax/lpips',
    mse=0.0,
    gradient=0.0,
    latent_l2=0.0,
    latent_mean=0.0,
    noise=0.0,
  )
  return config


def preference_of_shapes(task: str) -> ConfigDict:
  """Config of preference tuning of the shipped model, by `dpo` or `nft`.

  A LoRA of rank 16 on the attentions and the feed-forwards.
  """
  config = base.train(task)
  config.init_from = config.autoencoder = config.text_encoder = 'shapes'
  config.model = ConfigDict({**config.model, **base.SHAPES})
  config.data.update(size_px=128, threads=0)
  config.lora.targets = 'to_q to_k to_v to_out.0 ff.conv_inverted ff.conv_point'
  config.flow.shift = config.sampling.shift = 2.0
  config.sampling.guidance_scale = 3.0
  config.ema_decay = 0.0
  config.optimizer.update(name='adamw', weight_decay=0.0, clip_norm=1.0)
  config.log_every_steps = 8
  config.checkpoint_every_steps = 24
  config.pictures_every_steps = 0
  return config
