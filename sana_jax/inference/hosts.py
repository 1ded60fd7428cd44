"""Host names that the demo serves, and web pages that may use it.

Any web page can send requests to a server on this machine. It cannot read the
responses unless its own name resolves to this machine (DNS rebinding), so only
known names are served; and it cannot forge the header `Origin`, so requests of
other pages are rejected before anything is drawn.
"""

from collections.abc import Iterable
import re

from sana_jax.errors import UserError
from sana_jax.printable import printable

LOOPBACK = ('localhost', '127.0.0.1', '[::1]')
_NAME = r'\[[0-9a-f:.]{2,45}\]|[a-z0-9_-][a-z0-9_.-]{0,252}'
_AUTHORITY = re.compile(rf'({_NAME})(?::[0-9]{{1,5}})?')
_ORIGIN = re.compile(rf'https?://(({_NAME})(?::[0-9]{{1,5}})?)')
Headers = Iterable[tuple[bytes, bytes]]


class Foreign(UserError):
  """A request for an unknown host, or from another web page."""


def name(text: str) -> str:
  """A checked host name or address, in the form used in URLs.

  Raises UserError.
  """
  found = text.lower()
  if found.count(':') > 1 and not found.startswith('['):
    found = f'[{found}]'
  if not re.fullmatch(_NAME, found):
    raise UserError(
      f'{printable(text, 60)!r} is no host name; give one '
      'without a port, such as demo.example.org.',
      key='host',
      value=text,
    )
  return found


def origin(headers: Headers, served: Iterable[str]) -> str | None:
  """Scheme and host of the page that sends the request, if any.

  Args:
    served: names as returned by `name`.

  Raises:
    Foreign: the request is for another host, or comes from another page.
  """
  hosts = _values(headers, b'host')
  if len(hosts) != 1:
    raise Foreign('The request must name one host.')
  hosts += _values(headers, b'x-forwarded-host')
  names = [_served(host, served) for host in hosts]
  origins = _values(headers, b'origin')
  if not origins:
    return None
  match = _ORIGIN.fullmatch(origins[0])
  # A proxy on this machine may have replaced the host of the page.
  proxied = (
    match and names[0] in LOOPBACK and match[2] in (set(served) - set(LOOPBACK))
  )
  if len(origins) > 1 or not match or not (match[1] in hosts or proxied):
    raise Foreign(
      f'The web page {printable(origins[0], 60)!r} may not use the demo.'
    )
  return match[0]


def _served(host, served):
  match = _AUTHORITY.fullmatch(host)
  if match is None or match[1] not in served:
    raise Foreign(
      f'Host {printable(host, 60)!r} is not served here; if it is this '
      'machine, start the demo with --allow-host and its name.'
    )
  return match[1]


def _values(headers, key):
  return [v.decode('latin-1').lower() for k, v in headers if k.lower() == key]
