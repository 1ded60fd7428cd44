"""Each task trains, exports what loads again, and the three make a SANA."""

import json
import shutil

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax import tasks
from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks.sana import inputs as sana_inputs
from sana_jax.text import tokenizer as tokenizers
from sana_jax.training import loop
from sana_jax.tree import flatten
from sana_jax.weights import folder as folders

# As many as the pictures of training, for which sampling is compiled.
pytestmark = pytest.mark.long

PROMPTS = ['a red circle', 'two stars', 'a green square'] * 2
SIZE = 8  # Pixels; compression 2 leaves 4 x 4 latents.


def tiny(task, **changes):
  config = base.train(task)
  config.num_steps = 2
  config.batch_size = 8
  config.log_every_steps = 1
  config.data.size_px = SIZE
  config.data.examples = 32
  if task == 'dc_ae':
    config.model = base.dc_ae_fields(
      latent_channels=4, widths=(8, 16), depths=(0, 1), attention_stages=0
    )
  elif task == 'text_encoder':
    config.model.update(
      width=16,
      depth=1,
      heads=2,
      kv_heads=1,
      head_dim=8,
      hidden=16,
      query_scale=8,
    )
    config.text.length, config.text.examples = 320, 8
    config.pictures_every_steps = 0
  else:
    config.model.update(width=32, depth=1, cross_heads=2, sample_size=4)
    config.sampling.steps, config.sampling.images = 2, 6
  config.update_from_flattened_dict(changes)
  return config


def run(config, workdir):
  base.check(config)
  task = tasks.open_task(config, workdir)
  # On one device, for which everything compiles faster.
  mesh = make_mesh(config.mesh, jax.devices()[:1])
  loop.train(config, task, workdir, mesh)
  return task


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('tasks')


@pytest.fixture(scope='module')
def inputs(root):
  """Settings of a transformer's config for the other two models."""
  return {
    'data.path': str(root / 'data'),
    'autoencoder': str(root / 'dc_ae/model'),
    'text_encoder': str(root / 'text_encoder/model'),
  }


@pytest.fixture(scope='module')
def trained(root, inputs):
  """The tasks by name after two steps, and the config keys that were read."""
  made, read = {}, set()
  original = {
    name: getattr(ConfigDict, name) for name in ('__getattr__', 'get')
  }

  def recording(way):
    def get(config, key, *default):
      read.add((id(config), key))
      return original[way](config, key, *default)

    return get

  configs = {}
  with pytest.MonkeyPatch.context() as patch:
    for name in ('dc_ae', 'text_encoder', 'sana'):
      changes = inputs if name == 'sana' else {'data.path': inputs['data.path']}
      configs[name] = config = tiny(name, **changes)
      for way in original:
        patch.setattr(ConfigDict, way, recording(way))
      made[name] = run(config, root / name)
      patch.undo()
  keys = set()
  for config in configs.values():
    groups = {
      id(v): f'{k}.' for k, v in config.items() if isinstance(v, ConfigDict)
    } | {id(config): ''}
    keys |= {groups[i] + key for i, key in read if i in groups}
  return made, configs, keys


def facts(tree):
  return {key: (x.ndim, np.dtype(x.dtype)) for key, x in tree.items()}


def test_a_task_has_what_its_objective_describes(trained):
  for task in trained[0].values():
    batch = next(task.data.batches(seed=0, batch_size=8, rows=range(8)))
    assert facts(batch) == facts(task.objective.batch(8))
    assert facts(task.frozen) == facts(task.objective.frozen())


def test_an_objective_without_files_is_that_of_the_run(trained):
  # But for the sizes that a transformer's two other models decide.
  for name in ('dc_ae', 'text_encoder'):
    task, config = trained[0][name], trained[1][name]
    shapes = lambda objective: jax.eval_shape(objective.init, jax.random.key(0))
    aim = tasks.objective(config)
    assert shapes(aim) == shapes(task.objective)
    assert aim.batch(8) == task.objective.batch(8)
    assert aim.rules == task.objective.rules


def test_the_autoencoder_loads_again(trained, root):
  model = folders.load(root / 'dc_ae/model', 'vae')
  ours = trained[1]['dc_ae'].model
  assert model.module.scaling_factor != ours.scaling_factor
  encode = jax.jit(
    lambda x: model.module.apply(model.variables, x, method='encode')
  )
  images = np.linspace(-1, 1, 3 * SIZE**2, dtype='f4').reshape(1, SIZE, SIZE, 3)
  assert encode(images).shape == (1, 4, 4, 4)


def test_exported_latents_have_unit_size(trained, root):
  model = folders.load(root / 'dc_ae/model', 'vae')
  source = sana_inputs.make(trained[1]['sana'], root / 'sana').source
  latents = np.stack([source[i]['latents'] for i in range(len(source))])
  assert latents.shape == (32, 4, 4, 4)
  assert np.std(latents) == pytest.approx(1, abs=1e-3)
  assert model.module.scaling_factor > 0


def test_the_text_encoder_and_its_tokenizer_load_again(trained, root):
  model = folders.load(root / 'text_encoder/model', 'text_encoder')
  tokenizer = tokenizers.load(root / 'text_encoder/model/tokenizer')
  assert len(tokenizer) == model.module.vocab_size
  assert tokenizer.decode(
    tokenizer.encode('a red circle'), skip_special_tokens=True
  ) == ('a red circle')


def test_the_transformer_that_is_exported_makes_pictures(trained, root):
  pipe = Pipeline.from_pretrained(root / 'sana/model', 'float32')
  assert pipe.size_px == SIZE
  assert pipe.recommended == {'steps': 2, 'guidance_scale': 4.5}
  latents = pipe.draw(PROMPTS, output_type='latent', **pipe.recommended)
  assert np.isfinite(latents).all()
  images = pipe.decode(jax.numpy.asarray(latents))
  assert images.shape == (6, SIZE, SIZE, 3)


def test_pictures_and_curves_are_drawn(trained, root):
  for name, columns in (('dc_ae', 6), ('sana', 6)):
    with Image.open(root / name / 'pictures/step_000002.png') as image:
      assert image.width == columns * (128 + 12)
  for name in ('dc_ae', 'text_encoder', 'sana'):
    lines = (root / name / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(x)['step'] for x in lines] == [1, 2]
    assert (root / name / 'loss.png').is_file()


def test_every_config_key_is_read(trained):
  _, configs, read = trained
  # The model's go to the module and the optimizer's to its factory, which
  # refuse unknown ones; the mesh is a dict, the two folders are read by name.
  # The kernels are the command's to prefer; data.columns become the fields of
  # parquet.Columns, which refuses others. Without a GAN, nothing reads its
  # turns and optimizer, nor adapters, class pictures and growth. The reports
  # read wandb if it is there.
  elsewhere = (
    'model.',
    'optimizer.',
    'mesh.',
    'kernels.',
    'lora.',
    'prior.',
    'grow.',
    'autoencoder',
    'text_encoder',
    'data.columns.',
    'loss.gan_',
    'discriminator.',
    'wandb',
  )
  for name, config in configs.items():
    shared = ('data.',) if name == 'text_encoder' else ()
    unread = {
      key
      for key in flatten(config, '.')
      if key not in read and not key.startswith(elsewhere + shared)
    }
    assert not unread, name


def test_the_log_has_the_loss_by_noise_level(trained, root):
  lines = [
    json.loads(line)
    for line in (root / 'sana/metrics.jsonl').read_text().splitlines()
  ]
  for line in lines:  # One step each.
    found = {k: v for k, v in line.items() if k.startswith('loss_by_noise/')}
    assert 2 <= len(found) <= 8
    assert min(found.values()) <= line['loss'] <= max(found.values())
    assert line['grad_norm/block_00'] > 0 and line['grad_norm/head'] > 0
  for name in ('dc_ae', 'text_encoder'):
    assert 'loss_by_noise' not in (root / name / 'metrics.jsonl').read_text()


def repeated(config, workdir, count):
  """A batch of the first example."""
  source = sana_inputs.make(config, workdir).source
  example = {k: v for k, v in source[0].items() if k != 'caption'}
  return {k: np.stack([v] * count) for k, v in example.items()}


@pytest.fixture(scope='module')
def losses(trained, inputs, root):
  """(task, loss of a batch by the share of dropped captions)."""
  task = tasks.open_task(tiny('sana', **inputs), root / 'sana')
  params = jax.jit(task.objective.init)(jax.random.key(0))
  # It starts small, so that text hardly matters.
  scale = params['caption']['norm']['scale']
  params['caption']['norm']['scale'] = jnp.full_like(scale, 5.0)

  def at(dropout):
    config = tiny('sana', **inputs | {'flow.caption_dropout': dropout})
    loss = tasks.open_task(config, root / 'sana').objective.loss
    keys = jax.random.split(jax.random.key(1), 8)
    return jax.jit(lambda batch: loss(params, task.frozen, batch, keys, 0))

  return task, {dropout: at(dropout) for dropout in (0.0, 1.0)}


def test_the_losses_by_noise_level_make_the_whole(losses, inputs, root):
  batch = repeated(tiny('sana', **inputs), root / 'sana', 8)
  loss, found = losses[1][0.0](batch)
  levels = found.metrics['loss_by_noise']
  assert levels.counts.sum() == 8
  assert levels.sums.sum() / 8 == pytest.approx(float(loss), rel=1e-5)


def test_a_dropped_caption_is_the_null_text(losses, inputs, root):
  task, of = losses
  row = repeated(tiny('sana', **inputs), root / 'sana', 8)
  null = row | {
    'text': np.stack([task.frozen['null_text']] * 8),
    'mask': np.stack([task.frozen['null_mask']] * 8),
  }
  loss = lambda dropout, batch: float(of[dropout](batch)[0])
  dropped = loss(1.0, row)
  assert dropped == loss(1.0, null) == pytest.approx(loss(0.0, null))
  assert abs(loss(0.0, row) - loss(0.0, null)) > 1e-4


def test_encoded_data_are_used_again(trained, inputs, root):
  files = lambda: {
    p: p.stat().st_mtime_ns for p in (root / 'sana/encoded').iterdir()
  }
  before = files()
  tasks.open_task(tiny('sana', **inputs), root / 'sana')
  assert files() == before


@pytest.fixture(scope='module')
def folder(root):
  """24 captioned images, one of them damaged."""
  path = root / 'images'
  path.mkdir()
  for i in range(24):
    Image.new('RGB', (20, 18), (10 * i, 0, 90)).save(path / f'{i:02d}.png')
    (path / f'{i:02d}.txt').write_text(f'a picture of number {i % 5}')
  (path / '07.png').write_bytes((path / '07.png').read_bytes()[:40])
  return path


def of_folder(task, path, inputs):
  changes = inputs if task == 'sana' else {}
  return tiny(
    task, **changes | {'data.source': 'folder', 'data.path': str(path)}
  )


def test_a_folder_of_images_trains_a_transformer(
  trained, inputs, folder, root, caplog
):
  config = of_folder('sana', folder, inputs)
  config.pictures_every_steps = 0
  task = run(config, root / 'of_folder')
  assert task.data.records.count == 24
  assert 'Skipped bad record 07.png' in caplog.text
  assert (root / 'of_folder/model/model_index.json').is_file()


def test_a_folder_of_images_serves_the_other_tasks(folder, inputs, tmp_path):
  task = tasks.open_task(of_folder('dc_ae', folder, inputs), tmp_path)
  params = jax.jit(task.objective.init)(jax.random.key(0))
  task.export(params, tmp_path / 'model')  # Steps over the damaged one.
  folders.load(tmp_path / 'model', 'vae')
  assert task.pictures(params, 0).width == 6 * (128 + 12)
  task = tasks.open_task(of_folder('text_encoder', folder, inputs), tmp_path)
  batches = task.data.batches(seed=0, batch_size=2, rows=range(2))
  assert next(batches)['tokens'].shape == (2, 320)


def test_encoded_data_are_made_again_for_other_data(
  trained, inputs, folder, tmp_path
):
  mine = tmp_path / 'images'
  shutil.copytree(folder, mine)
  shutil.copytree(inputs['autoencoder'], tmp_path / 'dc_ae')
  config = of_folder(
    'sana', mine, inputs | {'autoencoder': str(tmp_path / 'dc_ae')}
  )

  def made():
    tasks.open_task(config, tmp_path)
    return (tmp_path / 'encoded/about.json').read_text()

  first = made()
  assert made() == first
  (mine / '03.txt').write_text('a picture of another')
  second = made()
  weights = tmp_path / 'dc_ae/vae/config.json'
  weights.write_text(weights.read_text() + '\n')
  assert len({first, second, made()}) == 3


def test_too_many_bad_records_raise(trained, inputs, folder, tmp_path):
  mine = tmp_path / 'images'
  shutil.copytree(folder, mine)
  for i in range(3):
    (mine / f'{i:02d}.png').write_bytes(b'')
  # Two are too many; other threads may have met all four of them by then.
  with pytest.raises(UserError) as error:
    tasks.open_task(of_folder('sana', mine, inputs), tmp_path)
  assert error.value.key == 'data.max_bad_fraction'
  assert len(error.value.value) in (2, 3, 4)
  assert set(error.value.value) <= {'00.png', '01.png', '02.png', '07.png'}
  assert not list((tmp_path / 'encoded').glob('*.safetensors'))


@pytest.mark.parametrize(
  'task, changes, key',
  [
    ('dc_ae', {'data.size_px': 9}, 'data.size_px'),
    ('sana', {'model.sample_size': 8}, 'data.size_px'),
    ('sana', {'text_encoder': ''}, 'text_encoder'),
    ('text_encoder', {'text.vocabulary': 99}, 'text.vocabulary'),
    ('text_encoder', {'text.length': 99}, 'text.length'),
  ],
)
def test_values_that_do_not_fit_raise(
  task, changes, key, trained, inputs, tmp_path
):
  start = inputs if task == 'sana' else {'data.path': inputs['data.path']}
  with pytest.raises(UserError) as error:
    tasks.open_task(tiny(task, **start | changes), tmp_path)
  assert error.value.key == key
  assert not list(tmp_path.iterdir())
