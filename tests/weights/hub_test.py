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
  """Server of the hub's API for one model, org/model."""

  def do_GET(self):
    path = self.path.partition('?')[0]
    if path == '/api/models/org/model/revision/main':
      self.answer(json.dumps({'id': 'org/model', 'sha': SHA}).encode())
    elif path == f'/api/models/org/model/tree/{SHA}':
      self.answer(
        json.dumps(
          [
            {'type': 'file', 'path': name, 'size': len(data), 'oid': etag(data)}
            for name, data in FILES.items()
          ]
        ).encode()
      )
    else:
      self.do_HEAD()

  def do_HEAD(self):
    name = self.path.partition('?')[0].removeprefix(
      f'/org/model/resolve/{SHA}/'
    )
    if name in FILES:
      self.server.requested.add(name)
      self.answer(FILES[name])
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
  thread = threading.Thread(target=server.serve_forever)
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
