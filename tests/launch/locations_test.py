"""Paths of a run that the hosts of a job can have, and others."""

import pytest

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.launch import locations
from sana_jax.launching import job as jobs
from sana_jax.launching import machines

pytestmark = pytest.mark.fast

TOPOLOGY = {
  'slurm': 'h200:1x2x8',
  'gke': 'v5e:4x4',
  'tpu-vm': 'v5e:4x4',
  'local': 'cpu:2x2',
}
FAR = ('gke', 'tpu-vm')


def checked(
  where, task='sana', mount=('/data',), workdir='gs://b/run', **paths
):
  """Checks a job whose config has these values, by key with __ for a dot."""
  config = base.train(task)
  values = {
    'autoencoder': 'sana_1600m_1024',
    'text_encoder': 'Org/Model',
    'data__source': 'webdataset',
    'data__path': '/data/*.tar',
    **paths,
  }
  base.apply_overrides(
    config,
    [f'--config.{k.replace("__", ".")}={v}' for k, v in values.items()],
  )
  job = jobs.Job(
    where,
    'run',
    'sana_600m_512',
    workdir,
    machines.parse(TOPOLOGY[where]),
    'out',
    mount=mount,
  )
  locations.check(job, config)


@pytest.mark.parametrize('where', TOPOLOGY)
def test_buckets_names_and_mounts_are_allowed_everywhere(where):
  checked(where)
  checked(where, workdir='/data/run', text_encoder='/data/text/')
  checked(where, data__path='s3://b/{a,b}/*.tar', init_from='shapes')
  # Data that are cached, or rendered by each host, are not read.
  checked(where, data__path='data', inputs__cache='gs://b/cache')
  checked(where, data__path='~/data', data__source='shapes')
  # Folders of each host's own.
  checked(where, checkpoint_cache='/dev/shm/x', data__index_path='~/index')


@pytest.mark.parametrize('where', FAR)
@pytest.mark.parametrize(
  'key, value',
  [
    ('data.path', 'data/*.tar'),
    ('data.path', '~/data/*.tar'),
    ('data.path', '/database/*.tar'),
    ('data.path', '/data/../etc/*.tar'),
    ('inputs.cache', 'out/cache'),
    ('autoencoder', './vae'),
    ('text_encoder', 'a/b/c'),
    ('init_from', '/home/me/model'),
    ('init_from', 'gs://b/model'),
  ],
)
def test_other_paths_are_refused_where_hosts_have_no_such_folder(
  where, key, value
):
  with pytest.raises(UserError) as raised:
    checked(where, **{key.replace('.', '__'): value})
  assert (raised.value.key, raised.value.value) == (key, value)
  assert any('--mount' in words for words in raised.value.allowed)


@pytest.mark.parametrize('where', FAR)
def test_the_workdir_is_in_a_bucket_or_a_mount(where):
  with pytest.raises(UserError) as raised:
    checked(where, workdir='/shared/run')
  assert raised.value.key == '--workdir'


def test_each_path_has_a_sentence_of_its_own():
  with pytest.raises(UserError) as raised:
    checked('gke', workdir='/a', data__path='b', autoencoder='./c')
  message = str(raised.value)
  assert message.count('; give ') == 0 or message.count('give') == 3
  for words in ('--workdir=/a', 'config.data.path=b', 'config.autoencoder=./c'):
    assert words in message


def test_a_folder_of_this_machine_is_no_hub_id(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  checked('gke', init_from='out/model')
  (tmp_path / 'out/model').mkdir(parents=True)
  with pytest.raises(UserError) as raised:
    checked('gke', init_from='out/model')
  assert raised.value.key == 'init_from'
  checked('slurm', init_from='out/model')


def test_hosts_of_slurm_have_the_folder_of_the_submission():
  checked('slurm', data__path='data/*.tar', autoencoder='/home/me/vae')
  with pytest.raises(UserError) as raised:
    checked('slurm', autoencoder='gs://b/vae')
  assert raised.value.key == 'autoencoder'


def test_weights_of_a_loss_count_once_it_is_used():
  more = dict(task='dc_ae', loss__lpips_weights='~/lpips')
  checked('gke', **more)
  with pytest.raises(UserError) as raised:
    checked('gke', **more, loss__lpips=1.0)
  assert raised.value.key == 'loss.lpips_weights'


def test_a_hub_id_outside_the_zoo_mentions_the_token(capsys):
  checked('gke')
  error = capsys.readouterr().err
  assert 'config.text_encoder=Org/Model' in error
  assert '--hf-token-secret' in error and 'sana_1600m_1024' not in error


def test_every_key_that_names_a_path_or_its_absence_is_decided():
  # A new key with such a name needs a location, or a line here.
  own = {
    'checkpoint_cache',
    'data.index_path',
    'data.columns.image',
    'data.instance_prompt',
  }
  for task in base.TASKS:
    table = base.table(task)
    named = {
      name
      for name, key in table.items()
      if isinstance(key.default, str)
      and any(word in key.comment.lower() for word in ('folder', 'location of'))
    }
    assert named - {n for n, key in table.items() if key.location} <= own
