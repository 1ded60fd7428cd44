"""A user's new shell, without the environment of the tests."""

import os
import pathlib
import shlex
import stat
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).parents[1]
# Certificates and pip's settings belong to the machine, not to the user.
MACHINE = ('PIP_', 'SSL_', 'REQUESTS_CA_BUNDLE', 'http', 'no_proxy')
# In place of the system's: venv makes one that has this one's packages, but no
# compiler of chips, as after the README's installation, and a pip that checks
# its arguments instead of downloading.
PYTHON3 = """#!/bin/bash
set -eu
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3"
mkdir "$3/packages"
ln -s {packages}/* "$3/packages"
rm -f "$3"/packages/{{libtpu,jax_cuda,jax_plugins,nvidia}}*
site=$("$3/bin/python" -c 'import sysconfig as s; print(s.get_path("purelib"))')
printf '%s\\n' "$PWD" "$PWD/$3/packages" >"$site/present.pth"
printf '#!/bin/sh\\nexec "%s/%s/bin/python" -m sana_jax.launch.cli "$@"\\n' \\
  "$PWD" "$3" >"$3/bin/sana-jax"
printf '#!/bin/sh\\n[ "$1 $2 $4 $5" = "install -e -c constraints.txt" ]\\n' \\
  >"$3/bin/pip"
chmod +x "$3/bin/sana-jax" "$3/bin/pip"
"""
# served: runs a server until it prints its address, and stops it.
# refused: a command that must end with a one-line error.
FUNCTIONS = """
served() {
  "$@" >served.log 2>&1 & local server=$! code=0
  until grep http:// served.log; do kill -0 $server && sleep 0.2; done
  kill $server
  wait $server || code=$?
  [ $code = 130 ] || [ $code = 143 ]
}
refused() {
  local code=0
  "$@" || code=$?
  [ $code = 2 ]
}
"""


def shell(text, folder, *path, check=True, seconds=None, **variables):
  """Runs commands as a user's new shell does; returns their output."""
  done = subprocess.run(
    [*start(folder, *path, **variables), 'bash', '-e', '-c', text],
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


def start(folder, *path, **variables):
  """Arguments of env(1) before the command of a new shell."""
  place = ':'.join(map(str, [*path, '/usr/bin', '/bin']))
  machine = [f'{k}={v}' for k, v in os.environ.items() if k.startswith(MACHINE)]
  more = [f'{k}={v}' for k, v in variables.items()]
  return ['env', '-i', f'HOME={folder}', f'PATH={place}', *machine, *more]


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


def fresh_clone(folder):
  """A clone of this repository, and a folder for PATH that has PYTHON3."""
  clone, first = folder / 'clone', folder / 'first'
  subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
  executable(
    first / 'python3',
    PYTHON3.format(
      python=shlex.quote(sys.executable),
      packages=shlex.quote(sysconfig.get_path('purelib')),
    ),
  )
  return clone, first


def run_in(clone, lines, folder):
  """Runs lines in a new shell, in a new folder with the clone's content.

  Returns the output of each.
  """
  folder.mkdir(exist_ok=True)
  for path in clone.iterdir():
    (folder / path.name).symlink_to(path)
  text = ''.join(f"{line}\nprintf '\\0'\n" for line in lines)
  output = shell(
    f'{FUNCTIONS}source .venv/bin/activate\n{text}',
    folder,
    HOME=clone.parent,  # All pages' commands share what is compiled.
    XLA_FLAGS=os.environ['XLA_FLAGS'],  # Compiles in half of the time.
  )
  return output.split('\0')[:-1]
