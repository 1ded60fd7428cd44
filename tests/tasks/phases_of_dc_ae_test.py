"""DC-AE's three phases, one after the other, as a user runs them."""

import json
import pathlib
import re
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.launch import cli
from sana_jax.launch.config_files import load_config
from sana_jax.sharding.mesh import make_mesh
from sana_jax.training import loop
from sana_jax.weights import folder as folders

PAGE = pathlib.Path(__file__).parents[2] / 'docs/autoencoder.md'
pytestmark = pytest.mark.slow  # Each phase compiles for a minute.

COMMANDS = [
  shlex.split(line)[1:]
  for block in re.findall(r'```bash\n(.*?)```', PAGE.read_text(), re.DOTALL)
  for line in block.replace('\\\n', ' ').splitlines()
]


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def vae(workdir):
  return flat(folders.load(workdir / 'model', 'vae').variables['params'])


def factor(workdir):
  return json.loads((workdir / 'model/vae/config.json').read_text())[
    'scaling_factor'
  ]


def run(config, workdir):
  base.check_keys(config)
  base.check(config)
  task = tasks.open_task(config, workdir)
  mesh = make_mesh(config.mesh, jax.devices()[:1])
  return loop.train(config, task, workdir, mesh)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('phases') / 'out'


def phase(number, root):
  config = load_config(f'dc_ae_f32c32_phase{number}:runlocal')
  config.data.path = str(root / 'data')
  config.pictures_every_steps = 0
  if number > 1:
    config.init_from = str(root / f'phase{number - 1}/model')
  if number == 3:
    config.model.scaling_factor = factor(root / 'phase2')
  return config


@pytest.fixture(scope='module')
def trained(root):
  """The last state of phase 3; before it come the page's own commands."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root.parent)
    for command in COMMANDS:
      assert (
        cli.main(
          [
            *command,
            f'--config.data.path={root}/data',
            '--config.pictures_every_steps=0',
          ]
        )
        == 0
      )
  return run(phase(3, root), root / 'phase3')


@pytest.mark.parametrize(
  'number, moves',
  [
    (
      2,
      (
        'encoder/stage_1/',
        'encoder/conv_out/',
        'decoder/conv_in/',
        'decoder/stage_1/',
      ),
    ),
    (3, ('decoder/stage_0/', 'decoder/norm_out/', 'decoder/conv_out/')),
  ],
)
def test_a_phase_moves_its_layers_and_no_others(number, moves, trained, root):
  before, after = (vae(root / f'phase{n}') for n in (number - 1, number))
  assert before.keys() == after.keys()
  moved = {k for k in before if before[k].tobytes() != after[k].tobytes()}
  assert moved
  assert all(k.startswith(moves) for k in moved)
  assert {m for m in moves if any(k.startswith(m) for k in moved)} == {*moves}


def test_moments_are_kept_only_of_trainable_parameters(trained):
  moments = {
    name: flat(player.opt_state[1][0].mu)  # Behind the clipping.
    for name, player in trained.players.items()
  }
  assert {name.split('/')[0] for name in moments['discriminator']} == {
    'discriminator'
  }
  assert {'/'.join(name.split('/')[:2]) for name in moments['model']} == {
    'decoder/stage_0',
    'decoder/norm_out',
    'decoder/conv_out',
  }


def test_the_discriminator_learns_and_is_not_exported(trained, root):
  params, average = flat(trained.params), flat(trained.ema)
  for name, value in params.items():  # Where it moved, its average lags.
    assert not name.startswith(
      ('encoder/', 'decoder/conv_in/', 'decoder/stage_1/')
    )
    if name.startswith('discriminator/'):
      assert name not in average
    else:
      assert not np.array_equal(value, average[name]), name
  assert not any('discriminator' in name for name in vae(root / 'phase3'))
  lines = [
    json.loads(line)
    for line in (root / 'phase3/metrics.jsonl').read_text().splitlines()
  ]
  assert [line['step'] for line in lines] == [1, 2]
  for line in lines:
    assert 0 < line['discriminator'] < 3
    assert line['grad_norm/discriminator'] > 0
    assert 'grad_norm/encoder' not in line


def test_an_encoder_that_does_not_train_keeps_its_scale(trained, root):
  assert factor(root / 'phase3') == factor(root / 'phase2')
  assert factor(root / 'phase2') != factor(root / 'phase1')
  config = phase(3, root)
  config.model.scaling_factor = 0.5
  with pytest.raises(UserError) as error:
    run(config, root / 'other')
  assert error.value.key == 'init_from'
  assert [p.split()[0] for p in error.value.value] == ['scaling_factor']
  assert '0.5' in error.value.value[0]
  assert not (root / 'other').exists()


def test_another_architecture_raises_before_anything_is_written(trained, root):
  config = phase(2, root)
  config.model.encoder_depths = (1, 2)
  with pytest.raises(UserError) as error:
    run(config, root / 'deeper')
  assert error.value.key == 'init_from'
  assert [p.split()[0] for p in error.value.value] == ['encoder_depths']
  assert '[1, 1]' in error.value.value[0] and '[1, 2]' in error.value.value[0]
  assert not (root / 'deeper').exists()


def test_a_phase_needs_its_own_base_at_each_start(trained, root, tmp_path):
  config = phase(2, root)
  config.num_steps = 3
  config.init_from = str(root / 'gone')
  with pytest.raises(UserError) as error:
    run(config, root / 'phase2')
  assert (error.value.key, error.value.value) == ('model', str(root / 'gone'))
  config.init_from = str(root / 'phase3/model')
  with pytest.raises(
    UserError,
    match='phase1/model.*phase3/model',
  ):
    run(config, root / 'phase2')
  shutil.copytree(root / 'phase2', tmp_path / 'phase2')
  config.init_from = str(root / 'phase1/model')
  assert int(run(config, tmp_path / 'phase2').step) == 3


def test_an_export_has_the_base_too(trained, root, tmp_path, monkeypatch):
  monkeypatch.chdir(root.parent)  # The config names out/phase1/model.
  argv = ['export', '--workdir', str(root / 'phase2'), '--to']
  assert cli.main([*argv, str(tmp_path / 'out')]) == 0
  ours = flat(folders.load(tmp_path / 'out', 'vae').variables['params'])
  wanted = vae(root / 'phase2')
  assert ours.keys() == wanted.keys()
  assert all(ours[k].tobytes() == wanted[k].tobytes() for k in wanted)
  base = root / 'phase1/model'
  base.rename(root / 'phase1/moved')
  try:
    assert cli.main([*argv, str(tmp_path / 'none')]) == 2
  finally:
    (root / 'phase1/moved').rename(base)
  assert not (tmp_path / 'none').exists()


def test_a_discriminator_must_train_and_see_enough(root):
  config = phase(1, root)
  config.loss.gan, config.trainable = 0.1, 'decoder/.*'
  with pytest.raises(UserError) as error:
    tasks.open_task(config, root)
  assert (error.value.key, error.value.value) == ('trainable', 'decoder/.*')
  config.trainable, config.data.size_px = '', 16
  with pytest.raises(UserError) as error:
    tasks.open_task(config, root)
  assert (error.value.key, error.value.value) == ('data.size_px', 16)
  assert error.value.allowed == '24 or more'


def test_the_gan_loss_trains_the_model_from_gan_start_on(root):
  config = phase(1, root)
  config.loss.gan, config.loss.gan_start = 0.3, 7
  task = tasks.open_task(config, root)
  params = jax.jit(task.objective.init)(jax.random.key(0))
  batch = {
    'image': jnp.asarray(
      np.random.default_rng().integers(0, 256, (2, 32, 32, 3), np.uint8)
    )
  }
  loss = jax.jit(
    lambda step: task.objective.loss(
      params, {}, batch, jax.random.split(jax.random.key(1), 2), step
    )
  )
  (before, _), (after, (terms, _)) = loss(6), loss(7)
  assert abs(terms['gan']) > 1e-4
  assert float(after - before) == pytest.approx(
    0.3 * float(terms['gan']), rel=1e-2
  )


def test_weights_land_on_their_shards(trained, root):
  task = tasks.open_task(phase(1, root), root)
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  given = task.start.load(str(root / 'phase1/model'), mesh)
  wanted = vae(root / 'phase1')
  assert flat(given).keys() == wanted.keys()
  for leaf in jax.tree.leaves(given):
    assert leaf.sharding.mesh == mesh
