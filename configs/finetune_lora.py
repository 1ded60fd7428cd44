r"""A LoRA of your own pictures: a folder in, an adapter for diffusers out.

  sana-jax train --config configs/finetune_lora.py --workdir out/lora \
    --config.data.path=pictures \
    --config.data.instance_prompt='a photo of sks dog'

On the published 1.6B at 1024 px; the argument is another model of the zoo, as
in `finetune_lora:sana_600m_512`, and --config.init_from=DIR is one of yours, of
the argument's size in pixels. Ours: rank 16 on all projections of both
attentions, AdamW at a constant 1e-4, 1000 steps of 4 pictures, the base in
bfloat16. docs/your_pictures.md describes the pictures, and has what was
measured on `shapes`. Not run at full size.

:sana_...  that model of the zoo: its weights, and its size in pixels; a
           SANA-Sprint is trained by the discrete consistency loss, without a
           teacher.
:shapes    the shipped small one, a few minutes on a CPU; :shapes-sprint, its
           Sprint.
:runlocal  two steps of `shapes`, seconds.
"""

from ml_collections import ConfigDict

from sana_jax import config as base

DEFAULT = 'sana_1600m_1024_bf16'
# Names in the zoo, and their fields in SANA_SIZES.
MODELS = {
  'sana_600m_512': 'sana_600m_512',
  'sana_600m_1024': 'sana_600m_1024',
  'sana_1600m_512': 'sana_1600m_512',
  DEFAULT: 'sana_1600m_1024',
  'sana_1600m_2k_bf16': 'sana_1600m_2k',
  'sana15_1600m_1024': 'sana15_1600m_1024',
  'sana15_4800m_1024': 'sana15_4800m_1024',
  'sana_sprint_600m_1024': 'sana_sprint_600m_1024',
  'sana_sprint_1600m_1024': 'sana_sprint_1600m_1024',
  'sana_sprint_600m_1024_teacher': 'sana_sprint_600m_1024_teacher',
  'sana_sprint_1600m_1024_teacher': 'sana_sprint_1600m_1024_teacher',
}
SPRINTS = 'sana_sprint_600m_1024', 'sana_sprint_1600m_1024', 'shapes-sprint'


def get_config(arg=''):
  small = 'shapes', 'shapes-sprint', 'runlocal'
  arg = base.parse_arg(arg, (*MODELS, *small)) or DEFAULT
  config = base.train('sprint' if arg in SPRINTS else 'sana')
  config.init_from = arg
  config.lora.rank = 16
  config.optimizer.update(name='adamw', learning_rate=1e-4, clip_norm=1.0)
  config.num_steps = 1000
  config.batch_size = 4
  config.ema_decay = 0.0
  config.dtype = 'bfloat16'
  config.data.update(source='folder', path='pictures', caption_rule='uniform')
  config.inputs.update(aspect_ratios=True, dtype='bfloat16')
  config.sampling.images = 4
  config.log_every_steps = 20
  config.checkpoint_every_steps = 250
  config.pictures_every_steps = 250
  if arg in MODELS:
    fields = base.SANA_SIZES[MODELS[arg]] | {'remat': 'full'}
    config.model = ConfigDict({**config.model, **fields})
    config.data.size_px = 32 * config.model.sample_size
  else:
    _shapes(config)
  if arg in SPRINTS:
    config.sprint.update(teacher='none', loss='discrete', target_decay=0.95)
    config.sampling.update(sampler='scm', steps=2)
  else:
    config.data.masks = 'files'
  if arg == 'runlocal':
    config.update(num_steps=2, pictures_every_steps=0)
  return config


def _shapes(config):
  """The shipped model, in the values that docs/your_pictures.md measures."""
  config.init_from = 'shapes' if config.task == 'sana' else 'shapes-sprint'
  config.model = ConfigDict({**config.model, **base.SHAPES, 'unroll': 6})
  config.data.update(size_px=128, threads=0)
  config.dtype = 'float32'
  config.inputs.dtype = 'float32'
  config.optimizer.learning_rate = 1e-3
  config.ema_decay = 0.99
  config.batch_size = 16
  config.sampling.update(shift=2.0, guidance_scale=3.0)
  if config.task == 'sana':
    config.flow.shift = 2.0
  else:
    config.model.guidance_embeds_scale = 10.0
    config.sprint.guidance_scales = (2.0, 3.0, 4.0)
