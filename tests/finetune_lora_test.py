"""The config finetune_lora: of each model of the zoo, and end to end."""

import json
import pathlib

import numpy as np
import pytest

from sana_jax import config as base
from sana_jax.evaluation import new_shape
from sana_jax.inference.images import write_png
from sana_jax.inference.pipeline import Pipeline
from sana_jax.launch import cli
from sana_jax.launch.config_files import load_config
from sana_jax.tasks import init_from
from sana_jax.weights import zoo

CONFIG = pathlib.Path(__file__).parents[1] / 'configs/finetune_lora.py'
ENTRIES = {entry.name: entry for entry in zoo.ENTRIES}


def models():
  space = {}
  exec(CONFIG.read_text(), space)
  return space['MODELS']


@pytest.mark.parametrize('name', models())
def test_a_model_of_the_zoo_decides_the_fields_and_the_size(name):
  config = load_config(f'finetune_lora:{name}')
  before = config.model.to_dict()
  init_from.set_model(config)  # Downloads nothing.
  assert config.model.to_dict() == before, 'the config has the fields already'
  module = ENTRIES[name].module('transformer')
  assert config.init_from == name and config.autoencoder == ''
  assert config.data.size_px == 32 * module.sample_size
  assert config.lora.rank == 16 and config.optimizer.learning_rate == 1e-4


def put(folder, count=3):
  folder.mkdir()
  for i, (image, caption) in enumerate(new_shape.pictures('diamond', count, 0)):
    write_png(folder / f'{i}.png', image)
    (folder / f'{i}.txt').write_text(caption)


def train(tmp_path, *more):
  return cli.main(
    [
      'train',
      '--config',
      'finetune_lora:runlocal',
      '--workdir',
      str(tmp_path / 'run'),
      f'--config.data.path={tmp_path / "pictures"}',
      '--config.data.index_path=',
      '--config.batch_size=8',
      '--config.model.unroll=1',
      *more,
    ]
  )


@pytest.mark.long
def test_a_folder_becomes_an_adapter_in_one_command(tmp_path):
  put(tmp_path / 'pictures')
  assert (
    train(
      tmp_path,
      '--config.prior.class_prompt=a square',
      '--config.prior.num_class_images=2',
      '--config.sampling.steps=1',
      '--config.sampling.images=2',
      '--config.pictures_every_steps=2',
      '--config.sampling.prompts=a diamond',
    )
    == 0
  )
  run = tmp_path / 'run'
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  assert 0 < json.loads(lines[-1])['loss'] < 10
  assert len([*(run / 'class').glob('*/*.png')]) == 2
  assert [*run.rglob('*2.png')]
  pipe = Pipeline.from_pretrained('shapes')
  adapted = pipe.load_lora(run / 'model')
  draw = lambda p: np.asarray(p.draw('a diamond', steps=2, output_type='float'))
  assert np.abs(draw(adapted) - draw(pipe)).max() > 0
  # For a Sprint, too, whose layers are those of its teacher.
  sprint = Pipeline.from_pretrained('shapes-sprint')
  changed = sprint.load_lora(run / 'model')
  assert np.abs(draw(changed) - draw(sprint)).max() > 0


@pytest.mark.long
@pytest.mark.parametrize(
  'given, key',
  [
    (['--config.data.path=EMPTY'], 'data.path'),
    (['--config.data.source=kohya'], 'data.path'),
    (['--config.data.instance_promt=a dog'], 'data.instance_promt'),
    (
      ['--config.data.tag_orders=2', '--config.data.caption_rule=first'],
      'data.caption_rule',
    ),
    (
      ['--config.prior.class_prompt=a dog', '--config.batch_size=3'],
      'batch_size',
    ),
    (['--config.lora.targets=to_z'], 'lora.targets'),
  ],
)
def test_invalid_input_is_one_sentence_and_exit_code_2(
  tmp_path, capsys, given, key
):
  put(tmp_path / 'pictures', 1)
  (tmp_path / 'empty').mkdir()
  given = [x.replace('EMPTY', str(tmp_path / 'empty')) for x in given]
  assert train(tmp_path, *given) == 2
  error = capsys.readouterr().err.strip()
  assert '\n' not in error.splitlines()[-1] and 'Traceback' not in error
  assert key.rpartition('.')[2] in error or str(tmp_path) in error
  assert not (tmp_path / 'run/model').exists()


def test_the_config_is_checked_without_a_device():
  for variant in ('', ':shapes', ':shapes-sprint', ':runlocal'):
    config = load_config(f'finetune_lora{variant}')
    base.check_keys(config)
    base.check(config)
