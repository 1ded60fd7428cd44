"""A user's new shell, without the environment of the tests."""

import os
import subprocess

# Certificates and pip's settings belong to the machine, not to the user.
MACHINE = ('PIP_', 'SSL_', 'REQUESTS_CA_BUNDLE', 'http', 'no_proxy')


def shell(text, folder, *path, check=True, seconds=None):
  """Runs commands as a user's new shell does; returns their output."""
  done = subprocess.run(
    [*start(folder, *path), 'bash', '-e', '-c', text],
    cwd=folder,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
    timeout=seconds,
  )
  if check:
    assert done.returncode == 0, f'{text}\n{done.stdout}'
  return done.stdout


def start(folder, *path):
  """Arguments of env(1) before the command of a new shell."""
  place = ':'.join(map(str, [*path, '/usr/bin', '/bin']))
  machine = [f'{k}={v}' for k, v in os.environ.items() if k.startswith(MACHINE)]
  return ['env', '-i', f'HOME={folder}', f'PATH={place}', *machine]
