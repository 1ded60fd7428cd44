"""Names that are served, and pages that may use the demo."""

import pytest

from sana_jax.errors import UserError
from sana_jax.inference import hosts

pytestmark = pytest.mark.fast

SERVED = [*hosts.LOOPBACK, '192.168.1.7', 'demo.example.org']


def headers(**values):
  return [
    (k.replace('_', '-').encode(), v.encode('latin-1'))
    for k, v in values.items()
  ]


@pytest.mark.parametrize(
  'host',
  [
    'localhost',
    'LOCALHOST:7860',
    '127.0.0.1:1',
    '[::1]:7860',
    '[::1]',
    '192.168.1.7:80',
    'demo.example.org',
  ],
)
def test_known_names_are_served_at_any_port(host):
  assert hosts.origin(headers(host=host), SERVED) is None
  origin = f'http://{host.lower()}'
  assert hosts.origin(headers(host=host, origin=origin), SERVED) == origin


@pytest.mark.parametrize(
  'host',
  [
    '',
    'evil.example',
    'localhost.evil.example',
    'evil.localhost',
    '127.0.0.2',
    '0.0.0.0:7860',
    'localhost:',
    'localhost:x',
    'localhost:999999',
    '[::1',
    '::1',
    'a@localhost',
    'localhost/',
    'localhost localhost',
    'localhost\n',
    'local\xe9host',
    '127.0.0.1:80:80',
    'localhost.',
    'x' * 9999,
  ],
)
def test_other_hosts_are_refused(host):
  with pytest.raises(hosts.Foreign) as raised:
    hosts.origin(headers(host=host), SERVED)
  assert str(raised.value).isprintable()
  assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
  'found',
  [
    [],
    headers(host='localhost') * 2,
    headers(host='localhost', x_forwarded_host='evil.example'),
    headers(host='localhost', x_forwarded_host='localhost, evil.example'),
  ],
)
def test_a_request_names_one_known_host(found):
  with pytest.raises(hosts.Foreign):
    hosts.origin(found, SERVED)


@pytest.mark.parametrize(
  'host, origin',
  [
    ('localhost:7860', 'http://evil.example'),
    ('localhost:7860', 'null'),
    ('localhost:7860', 'http://localhost:3000'),  # Another server of this host.
    ('localhost:7860', 'http://127.0.0.1:7860'),
    ('localhost:7860', ''),
    ('localhost:7860', 'http://localhost:7860.evil.example'),
    ('localhost:7860', 'http://localhost:7860/'),
    ('localhost:7860', 'file://localhost:7860'),
    ('192.168.1.7:7860', 'http://192.168.1.7:3000'),
  ],
)
def test_other_pages_are_refused(host, origin):
  with pytest.raises(hosts.Foreign):
    hosts.origin(headers(host=host, origin=origin), SERVED)


def test_a_page_behind_a_proxy_may_use_the_demo():
  # The proxy keeps the host, passes it on, or replaces it.
  page = 'https://demo.example.org'
  for found in (
    headers(host='demo.example.org', origin=page),
    headers(host='127.0.0.1:7860', origin=page),
    headers(
      host='127.0.0.1:7860', x_forwarded_host='demo.example.org', origin=page
    ),
  ):
    assert hosts.origin(found, SERVED) == page


@pytest.mark.parametrize(
  'text, name',
  [
    ('Demo.Example.org', 'demo.example.org'),
    ('::1', '[::1]'),
    ('[::1]', '[::1]'),
    ('0.0.0.0', '0.0.0.0'),
  ],
)
def test_names_are_brought_into_one_form(text, name):
  assert hosts.name(text) == name


@pytest.mark.parametrize(
  'text',
  ['', 'a b', 'http://a', 'a:80', 'a/b', '*', 'a\x1b[2J', '-' * 300, 'ä'],
)
def test_an_invalid_host_name_raises(text):
  with pytest.raises(UserError):
    hosts.name(text)
