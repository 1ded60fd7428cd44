"""Cached or encoded in the step: the same batches, losses and gradients."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax import tasks
from sana_jax.data import cache, files
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks.sana import fingerprints, inputs

pytestmark = pytest.mark.long


def settings(latents, text):
  return {'inputs.latents': latents, 'inputs.text': text}


def batches(task):
  return task.data.batches(seed=3, batch_size=8, rows=range(8))


@pytest.fixture(scope='module')
def step(small, folder, whole, tmp_path_factory):
  """Makes the step of a config, always from the same parameters."""
  config = small(folder, **{'inputs.cache': str(whole)})
  task = tasks.open_task(config, tmp_path_factory.mktemp('step'))
  params = jax.jit(task.objective.init)(jax.random.key(0))
  return functools.partial(_step, params)


def _step(params, config, workdir, mesh=None, gradient=True):
  """(keys of the batch, loss, gradient or None) of the first oblong batch."""
  task = tasks.open_task(config, workdir, mesh)
  loss = lambda *args: task.objective.loss(*args, 0)[0]
  run = jax.value_and_grad(loss) if gradient else lambda *a: (loss(*a), None)
  batch = next(
    batch
    for batch in batches(task)
    if any(x.ndim == 4 and x.shape[1] != x.shape[2] for x in batch.values())
  )
  keys = jax.random.split(jax.random.key(0), 8)
  found, grads = jax.jit(run)(params, task.frozen, batch, keys)
  return set(batch), float(found), grads


@pytest.fixture(scope='module')
def cached(step, small, folder, whole, tmp_path_factory):
  return step(
    small(folder, **{'inputs.cache': str(whole)}),
    tmp_path_factory.mktemp('cached'),
  )


@pytest.mark.parametrize(
  'latents, text',
  [('online', 'online'), ('cached', 'online'), ('online', 'cached')],
)
def test_encoding_in_the_step_gives_what_a_cache_gives(
  latents, text, step, small, folder, whole, cached, tmp_path
):
  changes = settings(latents, text)
  if 'cached' in (latents, text):
    changes['inputs.cache'] = str(whole)
  keys, loss, grads = step(small(folder, **changes), tmp_path)
  assert ('image' in keys) == (latents == 'online')
  assert ('ids' in keys) == (text == 'online')
  assert loss == pytest.approx(cached[1], rel=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
    grads,
    cached[2],
  )
  assert not list(tmp_path.iterdir())


def test_batches_have_one_ratio_each_and_several_occur(
  small, folder, whole, tmp_path
):
  task = tasks.open_task(
    small(folder, **{'inputs.cache': str(whole)}), tmp_path
  )
  shapes = {x['latents'].shape[1:] for _, x in zip(range(6), batches(task))}
  # 704x1408 / 64 and 1024x960 / 64, in whole latents of 4 px.
  ratios = {(4, 4, 4), (2, 5, 4), (5, 2, 4), (4, 3, 4)}
  assert shapes <= ratios and len(shapes) > 1


def test_encoders_may_be_split_over_the_mesh(
  step, small, folder, cached, tmp_path
):
  mesh = make_mesh({'data': 2, 'fsdp': 2}, jax.devices()[:4])
  config = small(folder, **settings('online', 'online'))
  with jax.set_mesh(mesh):
    _, loss, _ = step(config, tmp_path, mesh, gradient=False)
  assert loss == pytest.approx(cached[1], rel=1e-5)


def test_squares_are_the_default(small, folder, tmp_path):
  found = inputs.make(
    small(folder, **{'inputs.aspect_ratios': False}), tmp_path
  )
  assert [len(members) for members in found.members] == [30]
  assert found.source[0]['latents'].shape == (4, 4, 4)


def test_a_cache_serves_only_what_made_it(small, folder, whole, tmp_path):
  for key, value, both in (
    ('data.min_size_px', 4, '0 .*4 '),
    ('inputs.text_length', 8, '16 .*8 '),
    ('flow.instruction', False, 'True .*False '),
    ('autoencoder', 'shapes', ''),
  ):
    bad = small(folder, **{'inputs.cache': str(whole), key: value})
    with pytest.raises(UserError) as error:
      inputs.make(bad, tmp_path)
    assert error.value.key == 'inputs.cache'
    assert error.value.value == str(whole)
    assert re.search(f'{re.escape(key)} .*{both}', str(error.value))
  with pytest.raises(UserError) as error:
    inputs.make(
      small(folder, **{'inputs.cache': str(tmp_path / 'none')}), tmp_path
    )
  assert error.value.key == 'inputs.cache'
  assert error.value.value == str(tmp_path / 'none')
  assert error.value.allowed == (cache.ABOUT,)


def test_a_cache_serves_whatever_share_of_records_may_be_bad(
  small, folder, whole, tmp_path
):
  inputs.make(
    small(folder, **{'inputs.cache': str(whole), 'data.max_bad_fraction': 0.5}),
    tmp_path,
  )


def test_training_from_a_cache_needs_no_data(
  step, small, whole, cached, tmp_path
):
  config = small('gone', **{'inputs.cache': str(whole)})
  assert step(config, tmp_path)[1] == cached[1]


def test_a_cache_in_half_precision_is_near(
  step, small, folder, cached, tmp_path
):
  half = small(folder, **{'inputs.dtype': 'bfloat16'})
  found = inputs.make(half, tmp_path)
  assert found.source[0]['latents'].dtype == jnp.bfloat16
  _, loss, _ = step(half, tmp_path, gradient=False)
  assert loss == pytest.approx(cached[1], rel=2e-2)


@pytest.fixture
def run(small, folder, whole, tmp_path):
  """(config, its workdir) of a run with a cache of its own."""
  images = shutil.copytree(folder, tmp_path / 'images')
  config = small(images)
  own = shutil.copytree(whole, tmp_path / 'run/encoded')
  (own / cache.ABOUT).write_text(
    json.dumps({**fingerprints.of(config), 'records': 30, 'shard_records': 8})
  )
  return config, tmp_path / 'run'


def contents(path):
  return {p.name: p.read_bytes() for p in path.iterdir()}


def test_a_run_s_own_cache_outlives_what_cannot_be_reached(
  run, folder, monkeypatch, tmp_path
):
  config, workdir = run
  before = contents(workdir / 'encoded')
  read = files.read

  def fails(path, *places):
    if path.endswith(cache.ABOUT):
      raise OSError('503')
    return read(path, *places)

  monkeypatch.setattr(files, 'read', fails)
  with pytest.raises(UserError) as error:
    inputs.make(config, workdir)
  assert error.value.key == 'inputs.cache'
  assert error.value.value == str(workdir / 'encoded')
  assert '503' in str(error.value)
  monkeypatch.setattr(files, 'read', read)
  (tmp_path / 'images').rename(tmp_path / 'elsewhere')
  with pytest.raises(UserError) as error:
    inputs.make(config, workdir)
  assert error.value.key == 'data.path'
  assert error.value.value == str(tmp_path / 'images')
  (tmp_path / 'elsewhere').rename(tmp_path / 'images')
  inputs.make(config, workdir)
  assert contents(workdir / 'encoded') == before
  assert [p.name for p in workdir.iterdir()] == ['encoded']


def test_a_run_s_own_cache_of_other_data_is_set_aside(run, tmp_path):
  config, workdir = run
  before = contents(workdir / 'encoded')
  (tmp_path / 'images/03.json').write_text('{"prompt": "another"}')
  inputs.make(config, workdir)
  assert contents(workdir / 'encoded.1') == before
  assert contents(workdir / 'encoded') != before


def test_shards_that_nothing_tells_of_are_not_taken(run):
  config, workdir = run
  (workdir / 'encoded' / cache.ABOUT).unlink()
  with pytest.raises(UserError) as error:
    inputs.make(config, workdir)
  assert error.value.key == '--out'
  assert error.value.value == str(workdir / 'encoded')
  assert error.value.allowed == (cache.ABOUT,)


@pytest.mark.parametrize(
  'source, path, names',
  [
    ('folder', '', ['a.png', 'a.txt']),
    ('webdataset', '*.tar', ['a.tar', 'a_more.json']),
    ('webdataset', '', ['a.tar', 'a_more.json']),
    ('parquet', '', ['a.parquet']),
    ('arrayrecord', '', ['a.array_record']),
    ('tfds', '', ['a.json', 'a-00000-of-00001']),
  ],
)
def test_a_fingerprint_is_of_what_the_source_opens(
  source, path, names, small, tmp_path
):
  here = tmp_path / 'here'
  here.mkdir()
  for name in names:
    (here / name).write_text('x')
  config = small(here / path, **{'data.source': source})
  before = fingerprints.of(config)
  for inside in (
    'run/metrics.jsonl',
    'run/pictures/1.png',
    'index/x.npz',
    'run/encoded/00000.safetensors',
  ):
    (here / inside).parent.mkdir(parents=True, exist_ok=True)
    (here / inside).write_text('x')
  assert fingerprints.of(config) == before
  moved = shutil.copytree(here, tmp_path / 'moved')
  assert (
    fingerprints.of(small(moved / path, **{'data.source': source})) == before
  )
  for name in names:
    (moved / name).write_text('changed')
    after = fingerprints.of(small(moved / path, **{'data.source': source}))
    assert after != before
    before = after
