"""sana-jax evaluate: a table with a chance column, scores.json and a sheet."""

import json

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from sana_jax.data.shapes import KINDS


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory, tiny_sana):
  from sana_jax.launch import cli

  out = tmp_path_factory.mktemp('evaluate') / 'out'
  argv = [
    'evaluate',
    '--model',
    str(tiny_sana),
    '--per-kind',
    '2',
    '--num-images',
    '2',
    '--batch-size',
    '4',
    '--steps',
    '2',
    '--out',
    str(out),
  ]
  assert cli.main(argv) == 0
  return argv, out


@pytest.mark.long
def test_scores_are_of_every_kind(evaluated, tiny_sana):
  record = json.loads((evaluated[1] / 'scores.json').read_text())
  assert record['model'] == str(tiny_sana)
  assert (record['steps'], record['guidance_scale'], record['seed']) == (
    2,
    4.5,
    0,
  )
  assert record['images_per_prompt'] == 2
  assert list(record['scores']) == [*KINDS, 'overall']
  assert {
    s['images'] for k, s in record['scores'].items() if k != 'overall'
  } == {4}
  assert record['scores']['overall']['images'] == 24


@pytest.mark.long
def test_the_sheet_shows_each_prompt_once(evaluated):
  with Image.open(evaluated[1] / 'scores.png') as sheet:
    assert sheet.width == 8 * (128 + 12)  # 12 pictures, 8 a row at 128 px.
  assert sorted(p.name for p in evaluated[1].iterdir()) == [
    'scores.json',
    'scores.png',
  ]


@pytest.mark.long
def test_the_table_is_printed_and_repeats(evaluated, cli):
  argv, out = evaluated
  before = (out / 'scores.json').read_bytes()
  code, printed, _ = cli(*argv)
  assert code == 0
  assert '12 held-out prompts x 2 images, 2 steps, guidance 4.5' in printed
  header, *rows = printed.splitlines()[1:]
  assert header.split() == ['kind', 'score', 'strict', 'chance', 'images']
  assert len(rows) == len(KINDS) + 1
  assert (out / 'scores.json').read_bytes() == before


@pytest.mark.parametrize(
  'flag, value',
  [('--per-kind', '0'), ('--num-images', 'x'), ('--steps', '0')],
)
def test_a_bad_value_is_reported_before_anything_is_written(
  flag, value, refused, tiny_sana, tmp_path
):
  argv = 'evaluate', '--model', tiny_sana, '--out', tmp_path / 'out'
  assert refused(*argv, flag, value).key == flag
  assert not (tmp_path / 'out').exists()


def test_an_unknown_sampler_is_reported(refused, tiny_sana):
  argv = 'evaluate', '--model', tiny_sana, '--sampler', 'ddim'
  assert "'ddim'" in refused(*argv)


def test_a_missing_model_is_reported(refused, tmp_path):
  message = refused(
    'evaluate', '--model', tmp_path / 'none', '--out', tmp_path / 'out'
  )
  assert message.key == 'model'
  assert not (tmp_path / 'out').exists()


@pytest.mark.long
def test_a_picture_with_nan_has_no_score(
  tiny_sana, cli, raised, monkeypatch, tmp_path
):
  from sana_jax import Pipeline

  def broken(pipe, prompts, **_):
    images = np.full((len(prompts), 32, 32, 3), 0.5, np.float32)
    images[-1, 3, 4] = np.nan
    return jnp.asarray(images)

  monkeypatch.setattr(Pipeline, 'draw', broken)
  flags = '--per-kind', 1, '--num-images', 1, '--out', tmp_path / 'out'
  assert cli('evaluate', '--model', tiny_sana, *flags)[0] == 2
  assert [error.key for error in raised] == ['--dtype']
  assert not (tmp_path / 'out' / 'scores.json').exists()
