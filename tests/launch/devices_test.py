"""Effect of a SIGTERM on one of several processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest

_JOINS = """
import time
from sana_jax.launch import devices
devices.join(({address!r}, 1, 0), asks_to_stop={asks})
print('joined', flush=True)
time.sleep({seconds})
"""


@pytest.mark.long
@pytest.mark.parametrize(
  'asks, code', [(False, -signal.SIGTERM), (True, 0)], ids=['cache', 'training']
)
def test_sigterm_ends_a_process_that_does_not_ask_for_it(asks, code):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  words = _JOINS.format(address=address, asks=asks, seconds=2 if asks else 60)
  with subprocess.Popen(
    [sys.executable, '-P', '-c', words],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  ) as process:
    assert process.stdout.readline() == 'joined\n'
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == code
