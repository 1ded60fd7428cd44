"""Names of models: folders, the zoo, and a hub on a local server."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import huggingface_hub
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import hub

SHA = '0123456789abcdef0123456789abcdef01234567'
FILES = {
  'model_index.json': b'{"_class_name": "SanaPipeline"}',
  'vae/config.json': b'{}',
  'vae/weights.safetensors': b'\0' * 1000,
  'vae/weights.fp16.safetensors': b'\0' * 500,
  'picture.png': b'\0' * 10,
  'pipeline.py': b'1',
  'tokenizer/evil.py': b'1',
  'vae/weights.bin': b'1',
}
INDEX = {'model_index.json': b'{}'}
REPOSITORIES = {
  'org/model': FILES,
  # Each part with weights of another kind, and what else may be there.
  'org/half': {
    **INDEX,
    'transformer/config.json': b'{}',
    'transformer/diffusion_pytorch_model.fp16.safetensors': b'1',
    'transformer/diffusion_pytorch_model.bf16.safetensors': b'2',
    'transformer/diffusion_pytorch_model.bin': b'3',
    'vae/config.json': b'{}',
    'vae/diffusion_pytorch_model.safetensors.index.fp16.json': b'{}',
    'vae/diffusion_pytorch_model.fp16-00001-of-00001.safetensors': b'4',
    'text_encoder/config.json': b'{}',
    'text_encoder/pytorch_model.bin.index.json': b'{}',
    'text_encoder/pytorch_model-00001-of-00001.bin': b'5',
    'text_encoder/training_args.bin': b'6',
    'text_encoder/model.py': b'7',
  },
  'org/flax': {
    **INDEX,
    'vae/config.json': b'{}',
    'vae/diffusion_flax_model.msgpack': b'8',
  },
}
FIND = """
import sys
from sana_jax.errors import UserError
from sana_jax.weights import hub
try:
  print(hub.find(sys.argv[1]))
except UserError as e:
  print('error:', e)
"""


class Hub(http.server.BaseHTTPRequestHandler):
  """Server of the hub's API for some models."""

  def do_GET(self):
    path = self.path.partition('?')[0]
    for model, files in REPOSITORIES.items():
      api = f'/api/models/{model}'
      if path in (f'{api}/revision/main', f'{api}/revision/{SHA}'):
        return self.answer(json.dumps({'id': model, 'sha': SHA}).encode())
      if path == f'{api}/tree/{SHA}':
        entries = [
          {'type': 'file', 'path': name, 'size': len(data), 'oid': etag(data)}
          for name, data in files.items()
        ]
        return self.answer(json.dumps(entries).encode())
    return self.do_HEAD()

  def do_HEAD(self):
    path = self.path.partition('?')[0].lstrip('/')
    model, _, name = path.partition(f'/resolve/{SHA}/')
    if name in REPOSITORIES.get(model, ()):
      self.server.requested.add(name)
      self.answer(REPOSITORIES[model][name])
    else:
      self.send_error(404)

  def answer(self, data):
    self.send_response(200)
    self.send_header('Content-Length', str(len(data)))
    self.send_header('ETag', f'"{etag(data)}"')
    self.send_header('X-Repo-Commit', SHA)
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(data)

  def log_message(self, *_):
    pass


def etag(data):
  return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.requested = set()
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


def find(name, home, port, offline='0'):
  return subprocess.run(
    [sys.executable, '-c', FIND, name],
    capture_output=True,
    text=True,
    check=True,
    env={
      **os.environ,
      'HF_HOME': str(home),
      'HF_HUB_OFFLINE': offline,
      'HF_ENDPOINT': f'http://127.0.0.1:{port}',
    },
  )


@pytest.mark.long
def test_a_hub_id_is_downloaded_once_and_then_found_offline(server, tmp_path):
  first = find('org/model', tmp_path, server.server_port)
  folder = pathlib.Path(first.stdout.strip())
  got = {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }
  wanted = {
    k: v
    for k, v in FILES.items()
    if 'fp16' not in k and k.endswith(('.json', '.safetensors'))
  }
  assert got == wanted
  assert server.requested == set(wanted)
  assert '%' in first.stderr  # The progress bar.
  server.requested.clear()
  offline = find('org/model', tmp_path, server.server_port, offline='1')
  assert offline.stdout == first.stdout
  assert not server.requested
  other = find('org/other', tmp_path, server.server_port, offline='1')
  assert other.stdout.startswith(
    "error: 'org/other' is not a local folder and cannot be downloaded"
  )
  assert other.stdout.strip().endswith('or unset HF_HUB_OFFLINE.')


@pytest.mark.long
def test_a_part_with_other_weights_only_gets_one_kind_of_them(server, tmp_path):
  first = find('org/half', tmp_path, server.server_port)
  folder = pathlib.Path(first.stdout.strip())
  got = {path.name for path in folder.rglob('*') if path.is_file()}
  assert {name for name in got if not name.endswith('config.json')} == {
    'model_index.json',
    'diffusion_pytorch_model.fp16.safetensors',
    'diffusion_pytorch_model.safetensors.index.fp16.json',
    'diffusion_pytorch_model.fp16-00001-of-00001.safetensors',
    'pytorch_model.bin.index.json',
    'pytorch_model-00001-of-00001.bin',
  }


@pytest.mark.long
def test_a_part_without_weights_that_are_read_is_an_error_with_its_files(
  server, tmp_path
):
  error = find('org/flax', tmp_path, server.server_port).stdout
  assert error.startswith('error: org/flax has no weights of vae')
  assert 'diffusion_flax_model.msgpack' in error and error.count('\n') == 1


def test_a_folder_is_found_before_any_other_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'org' / 'model').mkdir(parents=True)
  assert hub.find('org/model') == pathlib.Path('org/model')
  assert hub.find(tmp_path) == tmp_path


@pytest.mark.parametrize('name', ['sana', './a', '/nowhere/b', '~/c', 'a/b/c'])
def test_the_error_for_an_unknown_name_lists_allowed_ones(name):
  with pytest.raises(UserError) as error:
    hub.find(name)
  assert (error.value.key, error.value.value) == ('model', name)
  assert 'shapes' in error.value.allowed


@pytest.mark.parametrize('failure', [OSError, ValueError])
def test_a_failed_download_is_reported(monkeypatch, failure):
  def fail(hub_id, **_):
    raise failure(f'{hub_id} is nowhere\nand more')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', fail)
  with pytest.raises(UserError) as caught:
    hub.find('some/model')
  assert (caught.value.key, caught.value.value) == ('model', 'some/model')
  assert 'and more' not in str(caught.value)


def test_a_hub_id_is_its_snapshot(monkeypatch, tmp_path):
  monkeypatch.setattr(
    huggingface_hub,
    'snapshot_download',
    lambda hub_id, **_: str(tmp_path / hub_id),
  )
  assert hub.find('some/model') == tmp_path / 'some' / 'model'
