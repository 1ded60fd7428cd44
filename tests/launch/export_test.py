"""sana-jax data cache, train and export: from images to weights of any step."""

import contextlib
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from sana_jax.weights import folder as folders
from sana_jax.weights.weight_files import read

INPUTS = [
  '--config=shapes',
  '--config.data.source=folder',
  '--config.data.size_px=32',
  '--config.model.sample_size=8',
]
TINY = [
  f'--config.{setting}'
  for setting in (
    'num_steps=4',
    'checkpoint_every_steps=2',
    'batch_size=8',
    'model.width=32',
    'model.depth=1',
    'model.cross_heads=2',
    'model.unroll=1',
    'optimizer.warmup_steps=1',
    'pictures_every_steps=0',
    'ema_decay=0.5',
    'optimizer.learning_rate=1e-2',
  )
]


@pytest.fixture(scope='module')
def cached(tmp_path_factory, tiny_sana):
  """(arguments of train, cache, output): a cache of three images."""
  from sana_jax.launch import cli

  root = tmp_path_factory.mktemp('data')
  images, cache = root / 'images', root / 'cache'
  images.mkdir()
  for name in 'abc':
    image = Image.new('RGB', (32, 32), (90, 0, ord(name)))
    image.save(images / f'{name}.png')
    (images / f'{name}.txt').write_text(f'the letter {name}')
  inputs = [
    *INPUTS,
    f'--config.data.path={images}',
    f'--config.autoencoder={tiny_sana}',
    f'--config.text_encoder={tiny_sana}',
  ]
  argv = ['data', 'cache', *inputs, f'--out={cache}', '--batch-size=8']
  with contextlib.redirect_stdout(io.StringIO()) as first:
    assert cli.main([*argv, '--shard-records=2']) == 0
  with contextlib.redirect_stdout(io.StringIO()) as second:
    assert cli.main([*argv, '--shard-records=2']) == 0
  shutil.rmtree(images)
  return inputs, cache, [first.getvalue(), second.getvalue()]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, cached):
  """Finished run on the cache, which is deleted."""
  from sana_jax.launch import cli

  inputs, cache, _ = cached
  run = tmp_path_factory.mktemp('run') / 'run'
  argv = ['train', *inputs, *TINY, f'--workdir={run}']
  assert cli.main([*argv, f'--config.inputs.cache={cache}']) == 0
  shutil.rmtree(cache)
  return run


@pytest.mark.long
def test_a_cache_is_made_once(cached):
  _, cache, printed = cached
  size = sum(p.stat().st_size for p in cache.glob('*.safe*'))
  assert printed == 2 * [
    f'3 of 3 records are in 4 files of {size / 1e6:.1f} MB in '
    f'{cache}. Train with --config.inputs.cache={cache}\n'
  ]


@pytest.mark.long
def test_a_run_on_a_cache_makes_no_other(trained):
  assert (trained / 'model/transformer').is_dir()
  assert not (trained / 'encoded').exists()


def tensors(folder):
  found = read(folder / 'transformer', 'diffusion_pytorch_model')
  return {
    key: np.concatenate([np.ravel(p) for p in t.pieces()])
    for key, t in found.items()
  }


def equal(ours, reference):
  return ours.keys() == reference.keys() and all(
    np.array_equal(ours[key], reference[key]) for key in ours
  )


@pytest.mark.long
def test_the_last_step_is_the_model_of_the_run(trained, cli, tmp_path):
  before = {p: p.stat().st_mtime_ns for p in trained.rglob('*')}
  out = tmp_path / 'out'
  code, printed, err = cli('export', '--workdir', trained, '--to', out)
  assert (code, printed) == (0, f'{out}: step 4 of {trained}\n'), err
  files = lambda folder: {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file()
  }
  exported = files(out)
  assert b'step 4, EMA' in exported.pop('README.md')
  assert exported == files(trained / 'model')
  assert {p: p.stat().st_mtime_ns for p in trained.rglob('*')} == before
  assert list(tmp_path.iterdir()) == [out]


@pytest.mark.long
def test_a_step_and_the_raw_weights_can_be_requested(trained, cli, tmp_path):
  found = {}
  for step in (2, 4):
    for weights in ('ema', 'params'):
      out = tmp_path / f'{step}_{weights}'
      assert (
        cli(
          'export',
          '--workdir',
          trained,
          '--to',
          out,
          '--step',
          step,
          '--weights',
          weights,
        )[0]
        == 0
      )
      found[step, weights] = tensors(out)
      folders.load(out, 'transformer')
  runs = tensors(trained / 'model')
  assert equal(found.pop((4, 'ema')), runs)
  assert not any(equal(other, runs) for other in found.values())
  # ema = average of half of each; at the first step it is the weights.
  assert not equal(found[2, 'ema'], found[2, 'params'])


@pytest.fixture
def run(trained, tmp_path):
  """A copy of the run, with scores and samples."""
  copy = tmp_path / 'my run'
  shutil.copytree(trained, copy)
  kinds = {'single': {'accuracy': 0.953, 'strict': 0.9, 'chance': 0.1}}
  (copy / 'scores.json').write_text(json.dumps({'scores': kinds}))
  (copy / 'pictures').mkdir(exist_ok=True)
  for step, colour in ((2, 'red'), (4, 'blue')):
    picture = Image.new('RGB', (2000, 1000), colour)
    picture.save(copy / f'pictures/step_{step:06d}.png')
  return copy


@pytest.mark.long
def test_the_card_has_the_facts_of_the_run(run, cli, tmp_path, tiny_sana):
  out = tmp_path / 'out'
  argv = 'export', '--workdir', run, '--to', out, '--step', 2
  assert cli(*argv, '--license', 'mit')[0] == 0
  card = (out / 'README.md').read_text()
  assert card.startswith('---\nlicense: "mit"\n')
  count = sum(x.size for x in tensors(out).values()) // 4  # Bytes.
  for text in (
    '# my run',
    '| weights | step 2, EMA |',
    f'| parameters | {count:,} |',
    '| data | folder, images |',
    '| single | 95\\.3 % | 90\\.0 % | 10\\.0 % |',
    '![Samples of the run](./samples.jpg)',
    f'text encoder of {tiny_sana.name.replace("_", chr(92) + "_")}',
  ):
    assert text in card
  assert str(tiny_sana.parent) not in card  # Paths of the machine.
  with Image.open(out / 'samples.jpg') as picture:
    assert picture.size == (1024, 512)
    assert picture.getpixel((9, 9))[0] > 200  # Not that of a later step.


@pytest.mark.long
def test_damaged_scores_and_samples_are_left_out(run, cli, tmp_path, caplog):
  (run / 'scores.json').write_text('{"scores"')
  (run / 'pictures' / 'step_000004.png').write_bytes(b'\x89PNG')
  out = tmp_path / 'out'
  assert cli('export', '--workdir', run, '--to', out)[0] == 0
  card = (out / 'README.md').read_text()
  assert '## Scores' not in card and '![' not in card
  assert 'license:' not in card
  assert len([r for r in caplog.records if 'left out' in r.message]) == 2


@pytest.mark.long
def test_a_licence_without_an_identifier_is_refused(trained, refused, tmp_path):
  message = refusal(trained, refused, tmp_path, '--license', 'My own')
  assert message.key == '--license'


def refusal(trained, refused, tmp_path, *flags):
  out = tmp_path / 'out'
  message = refused('export', '--workdir', trained, '--to', out, *flags)
  assert not out.exists() and not list(tmp_path.glob('.*'))
  return message


@pytest.mark.long
def test_a_missing_step_is_reported(trained, refused, tmp_path):
  message = refusal(trained, refused, tmp_path, '--step', 3)
  assert (message.key, message.error.value) == ('--step', 3)
  assert message.error.allowed == [2, 4]


def test_a_folder_that_is_not_a_run_is_reported(refused, tmp_path):
  missing = refusal(tmp_path, refused, tmp_path)
  assert missing.key == '--workdir' and f'--workdir={tmp_path}' in missing
  (tmp_path / 'config.json').write_text('{"task": "sana"')
  damaged = refusal(tmp_path, refused, tmp_path)
  assert damaged.key == '--workdir' and f'{tmp_path}/config.json' in damaged


@pytest.mark.long
def test_a_run_without_checkpoints_is_reported(trained, refused, tmp_path):
  run = tmp_path / 'run'
  run.mkdir()
  shutil.copy(trained / 'config.json', run)
  message = refusal(run, refused, tmp_path)
  assert message.key == '--workdir' and str(message.error.value) == str(run)


@pytest.mark.long
def test_a_damaged_checkpoint_is_reported(trained, refused, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  about = run / 'checkpoints/4/about/metadata'
  content = json.loads(about.read_text())
  content['state'] = [x ^ 1 for x in content['state']]
  about.write_text(json.dumps(content))
  message = refusal(run, refused, tmp_path)
  assert message.key == '--step' and f'{run}/checkpoints/4' in message
  assert message.error.__cause__ is None  # It was read, and differs.
  for path in (run / 'checkpoints/4').rglob('d/*'):
    path.unlink()
  message = refusal(run, refused, tmp_path)
  assert message.key == '--step' and f'{run}/checkpoints/4' in message
  assert message.error.__cause__ is not None


@pytest.mark.long
def test_a_run_without_an_average_has_none(trained, refused, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  about = run / 'checkpoints/4/about/metadata'
  about.write_text(about.read_text().replace('"ema.', '"opt_state.'))
  message = refusal(run, refused, tmp_path, '--weights', 'ema')
  assert (message.key, message.error.value) == ('--weights', 'ema')


@pytest.mark.long
def test_an_existing_folder_is_left_alone(trained, refused, tmp_path):
  message = refused('export', '--workdir', trained, '--to', tmp_path)
  assert (message.key, message.error.value) == ('--to', str(tmp_path))
