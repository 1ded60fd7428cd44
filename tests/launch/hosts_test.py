"""Each host of a run sees its data, models and workdir, or all end with 2."""

import socket

import numpy as np
import pytest

from sana_jax import config as base
from sana_jax.errors import TransientError, UserError
from sana_jax.launch import hosts
from sana_jax.training import workdir as workdirs

pytestmark = pytest.mark.fast


@pytest.fixture
def config(tmp_path):
  """A config whose data and models this host has."""
  config = base.train('sana')
  data = tmp_path / 'data'
  data.mkdir()
  config.update(autoencoder='sana_1600m_1024', text_encoder='shapes')
  config.data.update(source='webdataset', path=f'{data}/*.tar')
  return config


def test_a_host_that_sees_everything_passes(config, tmp_path):
  assert hosts.check(config, tmp_path / 'run') is None
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'key, name',
  [
    ('data.path', 'other/{000..123}.tar'),
    ('inputs.cache', 'cache'),
    ('autoencoder', 'vae'),
    ('init_from', 'model'),
  ],
)
def test_a_missing_path_is_an_error_with_host_and_key(
  config, tmp_path, key, name
):
  value = f'{tmp_path}/{name}'
  base.apply_overrides(config, [f'--config.{key}={value}'])
  config.inputs.latents = 'online'
  error = hosts.check(config, tmp_path / 'run')
  assert (error.key, error.value, error.exit_code) == (key, value, 2)
  assert str(error).startswith(f'{socket.gethostname()}: config.{key}={value}')


def test_the_first_weights_are_not_read_once_a_run_has_a_checkpoint(
  config, tmp_path
):
  config.init_from = str(tmp_path / 'deleted')
  assert hosts.check(config, tmp_path / 'run').key == 'init_from'
  (tmp_path / 'run/checkpoints/8').mkdir(parents=True)
  assert hosts.check(config, tmp_path / 'run') is None
  config.trainable = 'blocks/.*'
  assert hosts.check(config, tmp_path / 'run').key == 'init_from'


def test_all_problems_are_reported_at_once(config, tmp_path):
  (tmp_path / 'file').touch()
  config.data.path = str(tmp_path / 'other')
  error = hosts.check(config, tmp_path / 'file/run')
  assert error.key == '--workdir' and 'config.data.path=' in str(error)


@pytest.mark.parametrize(
  'cause, code',
  [
    (PermissionError('no'), 2),
    (OSError('Forbidden: https://b'), 2),
    (TimeoutError('later'), 75),
  ],
)
def test_a_bucket_that_is_unreachable_for_now_is_tried_again(
  config, monkeypatch, cause, code
):
  def write(path, data):
    with workdirs.writing(path):
      raise cause

  monkeypatch.setattr(hosts, 'write_atomically', write)
  monkeypatch.setattr(hosts, 'resolve', workdirs.epath.Path)
  monkeypatch.setattr(hosts, '_has_begun', lambda workdir: False)
  error = hosts.check(config, 'gs://bucket/run')
  assert (error.key, error.exit_code) == ('--workdir', code)


def test_a_single_process_of_a_job_is_checked_too(
  config, monkeypatch, tmp_path
):
  config.data.path = str(tmp_path / 'other')
  hosts.join(config, tmp_path / 'run', None)
  monkeypatch.setenv('SANA_JAX_ATTEMPT', '0.0')
  with pytest.raises(UserError) as raised:
    hosts.join(config, tmp_path / 'run', None)
  assert raised.value.key == 'data.path'


def gathered(monkeypatch, *rows):
  """Makes `all_gather` return these numbers, one of each process, in turn."""
  rows = iter(rows)
  monkeypatch.setattr(hosts.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(hosts, 'barrier', lambda name: None)
  monkeypatch.setattr(
    hosts, 'all_gather', lambda numbers: np.array([next(rows)]).T
  )


def test_all_processes_end_with_the_code_of_the_failed_one(
  monkeypatch, tmp_path
):
  for codes, kind in (
    ([0, 75, 0], TransientError),
    ([0, 75, 2], UserError),
  ):
    gathered(monkeypatch, codes)
    with pytest.raises(UserError) as raised:
      hosts.agree(None, tmp_path)
    assert type(raised.value) is kind and raised.value.value[0] == 1
  gathered(monkeypatch, [2, 0])
  with pytest.raises(UserError) as raised:
    hosts.agree(UserError('mine', key='data.path'), tmp_path)
  assert raised.value.key == 'data.path'


def test_a_workdir_of_each_hosts_own_is_refused(monkeypatch, tmp_path):
  gathered(monkeypatch, [0, 0], [7, 8], [1, 0])
  with pytest.raises(UserError) as raised:
    hosts.agree(None, tmp_path / 'run')
  assert raised.value.key == '--workdir'
  gathered(monkeypatch, [0, 0], [7, 8], [1, 1])
  hosts.agree(None, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()  # Nothing is left.


@pytest.mark.parametrize(
  'pattern, folder',
  [
    ('/a/b/*.tar', '/a/b'),
    ('gs://b/c/{000..123}.tar', 'gs://b/c'),
    ('data/x?[12].tar', 'data'),
    ('*.tar', '.'),
    ('/*.tar', '/'),
    ('/a/b', '/a/b'),
  ],
)
def test_of_a_pattern_its_fixed_folder_is_checked(pattern, folder):
  assert hosts.fixed(pattern) == folder
