"""sana-jax grow: a deeper model folder, written as a whole or not at all."""

import json

import numpy as np
import pytest

from sana_jax.config.growth import STRATEGIES
from sana_jax.inference.pipeline import Pipeline
from sana_jax.launch import grow
from sana_jax.weights import exchange, hub, weight_files
from sana_jax.weights import folder as folders

STEM = 'diffusion_pytorch_model'


def config_of(folder):
  return json.loads((folder / 'transformer/config.json').read_text())


@pytest.mark.fast
def test_the_command_has_every_strategy():
  assert grow.STRATEGIES == STRATEGIES


@pytest.mark.long
def test_a_grown_model_draws_the_pictures_of_the_trained_one(cli, tmp_path):
  to = tmp_path / 'deep'
  code, out, err = cli('grow', '--from', 'shapes', '--depth', 9, '--to', to)
  assert code == 0, err
  assert 'transformer, vae, text_encoder' in out
  assert out.splitlines()[-1].startswith('6 blocks of 6, and 3 more')
  source = hub.find('shapes')
  assert config_of(to) == {**config_of(source), 'num_layers': 9}
  for name in ('model_index.json', 'tokenizer/tokenizer.json'):
    assert (to / name).read_bytes() == (source / name).read_bytes()
  latents = [
    Pipeline.from_pretrained(model, 'float32').draw(
      'a red star', steps=2, output_type='latent'
    )
    for model in ('shapes', to)
  ]
  np.testing.assert_array_equal(*latents)


@pytest.mark.long
def test_blocks_are_dropped_and_norms_added(cli, tmp_path):
  to = tmp_path / 'deep'
  how = ('--drop', 2, '--norms', '--strategy', 'cyclic', '--zero-gate')
  code, _, err = cli('grow', '--from', 'shapes', '--depth', 7, *how, '--to', to)
  assert code == 0, err
  module = folders.describe(to, 'transformer')
  assert (module.depth, module.qk_norm, module.cross_norm) == (7, True, True)
  folders.check(to, 'transformer')
  made = weight_files.read(to / 'transformer', STEM)
  before = exchange.open_source('shapes').parts['transformer'].tensors
  rest = 'attn1.to_q.weight'
  for new, old in enumerate((0, 1, 2, 3, 0, 1, 2)):
    np.testing.assert_array_equal(
      made[f'transformer_blocks.{new}.{rest}'].read(),
      before[f'transformer_blocks.{old}.{rest}'].read(),
    )


@pytest.mark.long
@pytest.mark.parametrize(
  'more, key',
  [
    (('--depth', 6), '--depth'),
    (('--depth', 3, '--drop', 3), '--depth'),
    (('--depth', 9, '--drop', 6), '--drop'),
    (('--depth', 8, '--strategy', 'block_expand'), '--depth'),
    (('--depth', 8, '--zero-gate'), '--zero-gate'),
  ],
)
def test_a_growth_that_cannot_be_writes_nothing(refused, tmp_path, more, key):
  to = tmp_path / 'deep'
  found = refused('grow', '--from', 'shapes', *more, '--to', to)
  assert found.key == key
  assert not [*tmp_path.iterdir()]


def test_another_family_and_a_taken_folder_are_refused(
  refused, tiny_sana, tmp_path
):
  to = tmp_path / 'deep'
  depth = ('--depth', 9)
  vae = refused('grow', '--from', tiny_sana / 'vae', *depth, '--to', to)
  assert vae.key == '--from'
  assert not [*tmp_path.iterdir()]
  to.mkdir()
  assert refused('grow', '--from', tiny_sana, *depth, '--to', to).key == '--to'
  assert not [*to.iterdir()]


def test_norms_that_are_there_are_not_added_again(refused, tiny_sana, tmp_path):
  found = refused(
    *('grow', '--from', tiny_sana, '--depth', 4, '--norms'),
    *('--to', tmp_path / 'deep'),
  )
  assert found.key == 'qk_norm'
  assert not [*tmp_path.iterdir()]


def test_a_model_with_a_controlnet_is_refused(
  refused, tiny_sana, tmp_path, monkeypatch
):
  source = exchange.open_source(str(tiny_sana))
  parts = {**source.parts, 'controlnet': source.parts['transformer']}
  with_net = exchange.Source(parts, source.folder)
  monkeypatch.setattr(exchange, 'open_source', lambda name: with_net)
  found = refused(
    *('grow', '--from', tiny_sana, '--depth', 4, '--to', tmp_path / 'deep')
  )
  assert found.key == '--from'
