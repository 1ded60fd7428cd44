"""Published recipes: their values, their predictions and tiny runs of them."""

import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.analysis import flops
from sana_jax.launch.config_files import load_config
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.optim import schedules
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import common, init_from
from sana_jax.tasks.sana import caching
from sana_jax.tasks.sana import exports as sizes
from sana_jax.training import loop
from sana_jax.weights import folder as folders

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
RECIPES = sorted(p.stem for p in CONFIGS.glob('sana*.py'))
PEAK = 989e12  # FLOP/s of one H200 in bfloat16 (NVIDIA's data sheet).


@functools.cache
def forward_flops(size):
  """FLOPs of a forward pass of one image, with 300 text tokens."""
  fields = base.SANA_SIZES[size] | {'guidance_embeds': False}
  module = Sana(**fields)
  side = module.sample_size
  spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  return flops.count(
    lambda params, *args: module.apply({'params': params}, *args),
    abstract.transformer(module),
    spec(1, side, side, 32),
    spec(1),
    spec(1, 300, 2304),
  )


def size_of(config):
  """Name in SANA_SIZES of a config's model."""
  (found,) = (
    name
    for name, fields in base.SANA_SIZES.items()
    if all(config.model.get(k, None) == v for k, v in fields.items())
    and config.model.sample_size == fields.get('sample_size', 32)
    and config.model.qk_norm == fields.get('qk_norm', False)
    and ('interpolation_scale' in fields)
    == ('interpolation_scale' in config.model)
    and config.model.get('guidance_embeds', False)
    == fields.get('guidance_embeds', False)
    and config.model.get('timestep_scale', 1)
    == fields.get('timestep_scale', 0.001 if 'guidance_embeds' in fields else 1)
  )
  return found


def step_flops(config):
  """FLOPs of an image in a step: a forward pass and two for the gradients.

  A distillation has turns of two players. The student's: the teacher twice, for
  guidance; the student in forward mode (2), with gradients (3) and again for
  fakes (3); their features and the gradient of their inputs (2). The other's:
  fakes (1), and features of three kinds. Heads have 20 d^2 per token. A
  ControlNet's base has gradients of its activations only.
  """
  forward = forward_flops(size_of(config))
  if config.task == 'controlnet':
    blocks = config.controlnet.depth / config.model.depth
    return (2 + 3 * blocks) * forward
  if config.task != 'sprint':
    return 3 * forward
  heads = 20 * len(config.ladd.blocks) * config.model.width**2
  heads *= config.model.sample_size**2
  student = 12 * forward + 2 * heads
  return (student + 4 * forward + 3 * 3 * heads) / 2


@pytest.mark.long
@pytest.mark.parametrize('name', RECIPES)
def test_the_documented_time_follows_from_the_flops(name):
  config = load_config(name)
  text = ' '.join((CONFIGS / f'{name}.py').read_text().split())
  prediction = re.search(
    r'Predicted, not run: ([\d.]+) hours on (\d+) H200 at '
    r'(\d+) % of their bf16 peak',
    text,
  )
  hours, chips, percent = map(float, prediction.groups())
  work = step_flops(config) * config.batch_size
  seconds = config.num_steps * work / (chips * percent / 100 * PEAK)
  assert hours == pytest.approx(seconds / 3600, rel=0.05)


@pytest.mark.parametrize(
  'name, rate, shift, size',
  [
    # NVlabs/Sana's yaml files: learning rate, flow shift, table of ratios.
    ('sana_600m_512', 1e-4, 3, 512),
    ('sana_1600m_512', 1e-4, 3, 512),
    ('sana_600m_1024', 1e-4, 4, 1024),
    ('sana_1600m_1024', 1e-4, 3, 1024),
    ('sana_1600m_2k', 1e-4, 3, 2048),
    ('sana_1600m_4k', 1e-4, 6, 4096),
    ('sana15_4800m_1024', 2e-5, 3, 1024),
    ('sana15_4800m_grow', 1e-4, 3, 1024),
    ('sana_sprint_1600m_1024_teacher', 1e-4, 3, 1024),
  ],
)
def test_values_are_the_published_ones(name, rate, shift, size):
  config = load_config(name)
  optimizer = config.optimizer
  assert optimizer.learning_rate == rate
  assert (optimizer.warmup_steps, optimizer.clip_norm) == (2000, 0.1)
  assert optimizer.name == ('came_8bit' if '4800m' in name else 'came')
  assert (optimizer.weight_decay, optimizer.b1, optimizer.b2) == (0, 0.9, 0.999)
  assert config.flow.shift == shift and config.flow.density == 'logit_normal'
  assert config.flow.caption_dropout == 0.1 and config.flow.instruction
  assert (config.data.caption_threshold, config.data.caption_temperature) == (
    25,
    0.1,
  )
  assert config.data.size_px == size and config.inputs.aspect_ratios
  if optimizer.auto_lr:
    peak = schedules.make(optimizer, config.num_steps, config.batch_size)(2000)
    assert float(peak) == pytest.approx(
      rate * math.sqrt(config.batch_size / 256)
    )


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('recipes')


@pytest.fixture(scope='module')
def cache(root):
  """Folder of cached inputs, which all recipes share."""
  config = tiny('sana_1600m_1024', root)
  caching.make(config, root / 'cache')
  return str(root / 'cache')


def tiny(name, root):
  config = load_config(f'{name}:runlocal')
  config.data.path = str(root / 'data')
  config.data.index_path = ''
  return config


# Have the features in which recipes differ; each takes half a minute.
QUICK = (
  'sana15_4800m_1024',
  'sana_1600m_4k',
  'sana_sprint_600m_1024_teacher',
)


@pytest.mark.long
@pytest.mark.parametrize(
  'name',
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in RECIPES
  ],
)
def test_a_recipe_runs_locally(name, root, cache):
  config = tiny(name, root)
  if config.init_from != 'shapes':  # Which is of 128 px.
    config.inputs.cache = cache
  base.check(config)
  task = tasks.open_task(config, root / name)
  # On one device, for which everything compiles faster.
  loop.train(
    config, task, root / name, make_mesh({'fsdp': 1}, jax.devices()[:1])
  )
  lines = [
    json.loads(line)
    for line in (root / name / 'metrics.jsonl').read_text().splitlines()
  ]
  assert [line['step'] for line in lines] == [1, 2]
  # A log-variance is a term of Sprint's published loss, of either sign.
  least = -10 if config.task == 'sprint' else 0
  assert all(least < line['loss'] < 10 for line in lines)
  assert (root / name / 'model/model_index.json').is_file()


@pytest.mark.long
def test_a_teacher_starts_from_a_model_without_its_parts(root, cache, tmp_path):
  config = tiny('sana_sprint_1600m_1024_teacher', root)
  adds = config.init_adds.split()
  config.inputs.cache, config.num_steps = cache, 1
  plain = ConfigDict({**config.to_dict()})
  plain.model.update(qk_norm=False, cross_norm=False, timestep_scale=1.0)
  module = common.build(Sana, plain, **sizes.sizes(sizes.folders_of(plain)))
  variables = {'params': abstract.transformer_init(module)(jax.random.key(0))}
  folders.write(tmp_path / 'model', 'transformer', module, variables)
  folders.write_index(tmp_path / 'model', flow_shift=3.0, sampling={})
  config.init_from = str(tmp_path / 'model')
  init_from.set_model(config, (), tmp_path / 'run')
  assert set(adds) == {'qk_norm', 'cross_norm', 'timestep_scale'}
  task = tasks.open_task(config, tmp_path / 'run')
  mesh = make_mesh({'fsdp': 2}, jax.devices()[:2])
  loop.train(config, task, tmp_path / 'run', mesh)
  made = folders.load(tmp_path / 'run/model', 'transformer')
  assert made.module.qk_norm and made.module.timestep_scale == 0.001
  # One step at a small rate: the weights are still nearly those.
  for part in ('caption', 'head', 'patch_embed'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2),
      made.variables['params'][part],
      variables['params'][part],
    )


@pytest.mark.slow
def test_a_recipe_runs_from_the_command_line(root, cache):
  from sana_jax.launch import cli

  assert (
    cli.main(
      [
        'train',
        '--config',
        'sana_1600m_1024:runlocal',
        '--workdir',
        str(root / 'command'),
        f'--config.data.path={root}/data',
        f'--config.inputs.cache={cache}',
        '--layout',
        'fsdp',
      ]
    )
    == 0
  )
  assert (root / 'command/model/transformer').is_dir()
