"""A bucket in memory, behind as much of Google's JSON API as is used here."""

import base64
import contextlib
import datetime
import hashlib
import http.server
import json
import re
import threading
import time
from urllib import parse

import google_crc32c

OBJECT = re.compile(r'/(?:download/)?storage/v1/b/([^/]+)/o/(.+)')
COPY = re.compile(
  r'/storage/v1/b/[^/]+/o/(.+)/(?:rewriteTo|copyTo)/b/[^/]+/o/'
  r'(.+)'
)
LIST = re.compile(r'/storage/v1/b/([^/]+)/o')
BUCKET = re.compile(r'/storage/v1/b/([^/]+)')
_LONG_AGO = '2026-01-01T00:00:00.000Z'
UPLOAD = re.compile(r'/upload/storage/v1/b/([^/]+)/o')


class Store:
  """Objects by name: (generation, bytes); their times are of its own clock."""

  def __init__(self):
    self.objects, self.sessions, self.generation = {}, {}, 0
    self.times, self.seconds_ahead = {}, 0.0
    self.lock = threading.RLock()

  def put(self, name, data):
    with self.lock:
      self.generation += 1
      self.objects[name] = self.generation, bytes(data)
      now = time.time() + self.seconds_ahead
      self.times[name] = datetime.datetime.fromtimestamp(
        now, datetime.UTC
      ).strftime('%Y-%m-%dT%H:%M:%S.%fZ')
      return self.about(name)

  def about(self, name):
    generation, data = self.objects[name]
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    crc = base64.b64encode(
      google_crc32c.value(data).to_bytes(4, 'big')
    ).decode()
    return {
      'kind': 'storage#object',
      'name': name,
      'bucket': 'bucket',
      'size': str(len(data)),
      'generation': str(generation),
      'metageneration': '1',
      'md5Hash': md5,
      'crc32c': crc,
      'etag': 'x',
      'updated': self.times.get(name, _LONG_AGO),
      'storageClass': 'STANDARD',
      'timeCreated': _LONG_AGO,
      'contentType': 'x/y',
    }

  def listing(self, query):
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    start, end = query.get('startOffset', ''), query.get('endOffset')
    items, prefixes = [], set()
    for name in sorted(self.objects):
      if not name.startswith(prefix) or name < start or (end and name >= end):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
      else:
        items.append(self.about(name))
    return {
      'kind': 'storage#objects',
      'items': items,
      'prefixes': sorted(prefixes),
    }


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = -1  # One packet an answer: the second would wait 40 ms.
  store: Store

  def log_message(self, *_):
    pass

  def reply(self, code, value=None, data=None, **headers):
    data = json.dumps(value).encode() if data is None else data
    self.send_response(code)
    for key, text in headers.items():
      self.send_header(key.replace('_', '-'), text)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def body(self):
    if 'chunked' in self.headers.get('Transfer-Encoding', ''):
      parts = []
      while size := int(self.rfile.readline(), 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b''.join(parts)
    return self.rfile.read(int(self.headers.get('Content-Length') or 0))

  def route(self):
    url = parse.urlsplit(self.path)
    return url.path, dict(parse.parse_qsl(url.query))

  def stale(self, name, query):
    """Whether a condition on the generation does not hold."""
    there = self.store.objects.get(name, (0,))[0]
    wanted = query.get('ifGenerationMatch')
    return wanted is not None and int(wanted) != there

  def do_GET(self):  # noqa: N802
    path, query = self.route()
    with self.store.lock:
      if found := OBJECT.fullmatch(path):
        name = parse.unquote(found[2])
        if name not in self.store.objects:
          return self.reply(404, {'error': {'code': 404, 'message': name}})
        if query.get('alt') == 'media':
          return self.media(name)
        return self.reply(200, self.store.about(name))
      if LIST.fullmatch(path):
        return self.reply(200, self.store.listing(query))
      if BUCKET.fullmatch(path):
        return self.reply(
          200,
          {
            'kind': 'storage#bucket',
            'name': 'bucket',
            'id': 'bucket',
            'location': 'X',
            'locationType': 'region',
            'storageClass': 'STANDARD',
          },
        )
    return self.reply(404, {'error': {'code': 404, 'message': path}})

  def media(self, name):
    generation, data = self.store.objects[name]
    about = self.store.about(name)
    hashes = {
      'x_goog_generation': str(generation),
      'x_goog_hash': f'crc32c={about["crc32c"]},md5={about["md5Hash"]}',
    }
    if found := re.fullmatch(
      r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')
    ):
      start = int(found[1])
      stop = min(int(found[2] or len(data)) + 1, len(data))
      if start >= len(data):
        return self.reply(416, {})
      return self.reply(
        206,
        data=data[start:stop],
        Content_Range=f'bytes {start}-{stop - 1}/{len(data)}',
        **hashes,
      )
    return self.reply(200, data=data, **hashes)

  def do_POST(self):  # noqa: N802
    path, query = self.route()
    data = self.body()
    with self.store.lock:
      if path.startswith('/session/'):
        return self.resume(data)
      if found := COPY.fullmatch(path):
        source, target = map(parse.unquote, found.groups())
        if source not in self.store.objects:
          return self.reply(404, {'error': {'code': 404, 'message': source}})
        about = self.store.put(target, self.store.objects[source][1])
        return self.reply(200, {'done': True, 'resource': about, **about})
      if UPLOAD.fullmatch(path):
        return self.upload(query, data)
      if '/batch/' in path:
        return self.batch(data)
    return self.reply(404, {'error': {'code': 404, 'message': path}})

  def upload(self, query, data):
    name = query.get('name')
    kind = query['uploadType']
    if kind == 'multipart':
      boundary = re.search(
        r'boundary="?([^";]+)', self.headers['Content-Type']
      )[1].encode()
      _, about, content, *_ = data.split(b'--' + boundary)
      name = json.loads(
        about.partition(b'\r\n\r\n')[2] or about.partition(b'\n\n')[2]
      )['name']
      head = b'\r\n\r\n' if b'\r\n\r\n' in content else b'\n\n'
      data = content.partition(head)[2]
      data = data.removesuffix(b'\n').removesuffix(b'\r')
    if kind == 'resumable':
      name = name or json.loads(data)['name']
      key = str(len(self.store.sessions))
      self.store.sessions[key] = name, bytearray()
      at = f'http://{self.headers["Host"]}/session/{key}'
      return self.reply(200, {}, Location=at)
    if self.stale(name, query):
      return self.reply(412, {'error': {'code': 412, 'message': name}})
    return self.reply(200, self.store.put(name, data))

  def do_PUT(self):  # noqa: N802
    return self.resume(self.body())

  def resume(self, data):
    name, held = self.store.sessions[self.path.rpartition('/')[2]]
    held += data
    total = self.headers.get('Content-Range', '/*').rpartition('/')[2]
    if total == '*' or len(held) < int(total):
      return self.reply(308, {}, Range=f'bytes=0-{len(held) - 1}')
    return self.reply(200, self.store.put(name, held))

  def do_DELETE(self):  # noqa: N802
    path, query = self.route()
    self.body()
    name = parse.unquote(OBJECT.fullmatch(path)[2])
    with self.store.lock:
      if self.stale(name, query):
        return self.reply(412, {'error': {'code': 412, 'message': name}})
      there = self.store.objects.pop(name, None)
    return self.reply(204 if there else 404, data=b'')

  def batch(self, data):
    """Several deletions in one request."""
    names = [
      parse.unquote(x)
      for x in re.findall(
        r'DELETE /storage/v1/b/[^/]+/o/(\S+) HTTP', data.decode()
      )
    ]
    parts = []
    for number, name in enumerate(names):
      code = 204 if self.store.objects.pop(name, None) else 404
      parts.append(
        f'--b\r\nContent-Type: application/http\r\nContent-ID: '
        f'<response-x+{number + 1}>\r\n\r\nHTTP/1.1 {code} x\r\n'
        'Content-Length: 0\r\n\r\n\r\n'
      )
    return self.reply(
      200,
      data=''.join([*parts, '--b--\r\n']).encode(),
      Content_Type='multipart/mixed; boundary=b',
    )


@contextlib.contextmanager
def serve():
  """Yields its address and the Store."""
  store = Store()
  handler = type('Bound', (Handler,), {'store': store})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}', store
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
