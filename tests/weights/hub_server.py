"""Local server of the part of the hub's API that an upload uses."""

import base64
import contextlib
import http.server
import json
import threading

import huggingface_hub
from huggingface_hub import constants

TOKEN = 'hf_' + 'a1' * 17


class Hub(http.server.ThreadingHTTPServer):
  """The server; its attributes are set and read by tests.

  Attributes:
    status: status with which all requests fail, if any.
    fail_on: text in the paths that fail; by default, all.
    private: visibility of the models.
    files: content of the committed files, by path.
    stored: large files by checksum.
    puts: number of large files that were sent.
    log: path of each request.
  """

  status, fail_on, private = None, '', False

  def __init__(self):
    super().__init__(('127.0.0.1', 0), Handler)
    self.files, self.stored, self.log, self.puts = {}, {}, [], 0
    self.commits = []
    self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    self._begin()
    self._json(
      {'id': 'me/cat', 'private': self.server.private, 'sha': 'f' * 40}
    )

  def do_PUT(self):
    data = self._begin()
    if self._fails():
      return
    self.server.puts += 1
    self.server.stored[self.path.rpartition('/')[2]] = data
    self._json({})

  def do_POST(self):
    data = self._begin()
    if self._fails():
      return
    assert self.headers['authorization'] == f'Bearer {TOKEN}'
    path = self.path.partition('?')[0]
    if path.endswith('/objects/batch'):
      self._json({'objects': [*map(self._object, json.loads(data)['objects'])]})
    elif '/preupload/' in path:
      self._json({'files': [*map(_mode, json.loads(data)['files'])]})
    elif '/commit/' in path:
      self._commit(path, [*map(json.loads, data.splitlines())])
    elif path == '/api/repos/create':
      self.server.private |= json.loads(data).get('visibility') == 'private'
      self._json({'url': f'{self.server.url}/me/cat'})
    else:  # Branches, and the check of a card.
      self._json({})

  def _commit(self, path, lines):
    for line in lines:
      value = line['value']
      if line['key'] == 'file':
        content = base64.b64decode(value['content'])
      elif line['key'] == 'lfsFile':
        content = self.server.stored[value['oid']]
      else:
        continue
      self.server.files[value['path']] = content
    self.server.commits.append((path.rpartition('/')[2], lines[0]['value']))
    url = f'{self.server.url}/me/cat/commit/1'
    self._json({'commitUrl': url, 'commitOid': 'f' * 40})

  def _object(self, entry):
    answer = {'oid': entry['oid'], 'size': entry['size'], 'authenticated': True}
    if entry['oid'] not in self.server.stored:
      href = f'{self.server.url}/large/{entry["oid"]}'
      answer['actions'] = {'upload': {'href': href, 'header': {}}}
    return answer

  def _begin(self):
    self.server.log.append(self.path)
    return self.rfile.read(int(self.headers.get('content-length') or 0))

  def _fails(self):
    if self.server.status is None or self.server.fail_on not in self.path:
      return False
    self._json(
      {'error': f'no: {self.headers["authorization"]}'}, self.server.status
    )
    return True

  def _json(self, value, status=200):
    data = json.dumps(value).encode()
    self.send_response(status)
    self.send_header('content-type', 'application/json')
    self.send_header('content-length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *_):
    pass


def _mode(file):
  large = file['path'].endswith('.safetensors')
  mode = 'lfs' if large else 'regular'
  return {'path': file['path'], 'uploadMode': mode, 'shouldIgnore': False}


@contextlib.contextmanager
def served(monkeypatch):
  """The server, as the hub of the client in this process."""
  hub = Hub()
  thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
  thread.start()
  monkeypatch.setattr(constants, 'ENDPOINT', hub.url)
  monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setattr(huggingface_hub, 'get_token', lambda: TOKEN)
  try:
    yield hub
  finally:
    hub.shutdown()
    thread.join()
    hub.server_close()
