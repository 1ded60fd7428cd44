"""Copies contain only the data files of a model folder."""

import os
import pathlib
import shutil

import pytest

from sana_jax.errors import UserError
from sana_jax.weights import copying

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'tiny_sana'


@pytest.fixture
def model(tmp_path):
  return shutil.copytree(GOLDEN, tmp_path / 'model')


def copied(model, name):
  out = model.parent / 'out'
  copying.copy(model, name, out)
  return {
    p.relative_to(out).as_posix(): p.read_bytes()
    for p in out.rglob('*')
    if p.is_file()
  }


def test_data_is_copied_and_code_is_not(model):
  (model / 'vae/modeling.py').write_text('evil')
  (model / 'vae/orbax/d').mkdir(parents=True)
  (model / 'vae/orbax/d/1a2b').write_bytes(b'1')
  name = 'vae/diffusion_pytorch_model.safetensors'
  assert copied(model, 'vae') == {
    name: (model / name).read_bytes(),
    'vae/orbax/d/1a2b': b'1',
    'vae/config.json': (model / 'vae/config.json').read_bytes(),
  }
  assert set(copied(model, 'model_index.json')) >= {'model_index.json'}
  copying.copy(model, 'absent', model.parent / 'out')


@pytest.mark.parametrize('folder', [False, True])
def test_a_link_to_a_private_file_is_not_followed(model, tmp_path, folder):
  secret = tmp_path / 'secret'
  secret.mkdir()
  (secret / 'config.json').write_text('{"password": 1}')
  path = model / 'tokenizer' / ('more' if folder else 'more.json')
  path.symlink_to(secret if folder else secret / 'config.json')
  with pytest.raises(UserError) as error:
    copied(model, 'tokenizer')
  assert error.value.value == path
  assert error.value.allowed == 'files of the model folder'
  assert 'password' not in str(list((tmp_path / 'out').rglob('*')))


def test_a_part_that_is_a_link_elsewhere_is_not_followed(model, tmp_path):
  shutil.move(model / 'vae', tmp_path / 'vae')
  (model / 'vae').symlink_to(tmp_path / 'vae')
  for copy in (copied, copying.check):
    with pytest.raises(UserError) as error:
      copy(model, 'vae')
    assert error.value.allowed == 'files of the model folder'
    assert str(model / 'vae') in str(error.value)


def test_the_hub_s_links_to_its_blobs_are_followed(model, tmp_path):
  repository = tmp_path / 'models--org--name'
  (repository / 'blobs').mkdir(parents=True)
  (repository / 'snapshots').mkdir()
  home = shutil.move(model, repository / 'snapshots/0123')
  path = pathlib.Path(home) / 'vae/config.json'
  shutil.move(path, repository / 'blobs/abc')
  path.symlink_to('../../../blobs/abc')
  copying.copy(pathlib.Path(home), 'vae', tmp_path / 'out')
  assert (tmp_path / 'out/vae/config.json').read_bytes() == (
    GOLDEN / 'vae/config.json'
  ).read_bytes()
  assert not (tmp_path / 'out/vae/config.json').is_symlink()


@pytest.mark.parametrize('kind', ['fifo', 'zeros', 'circle'])
def test_a_pipe_or_a_device_is_refused_at_once(model, kind):
  path = model / 'scheduler/more.json'
  if kind == 'fifo':
    os.mkfifo(path)
  else:
    path.symlink_to('/dev/zero' if kind == 'zeros' else path.name)
  with pytest.raises(UserError) as error:
    copied(model, 'scheduler')
  assert error.value.value == path
