"""A SLURM of one node in a folder, by Debian's slurm-wlm and munge.

Nothing of it needs a service of the machine: keys, sockets, ports and state are
its own. DESIGN: select/cons_tres, proctrack/linuxproc and task/none are what
works without cgroups.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

PACKAGES = ('slurm-wlm', 'munge')  # Of Debian.
NEEDED = ('slurmctld', 'slurmd', 'munged', 'sbatch')
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
KillWait=60
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def install() -> str:
  """Installs missing programs; fails with a one-line reason."""
  if not missing():
    return ''
  if not shutil.which('apt-get') or os.geteuid():
    return f'{missing()} are missing (as root on Debian they are installed)'
  output = ''
  for words in (
    ['update'],
    ['install', '-y', '--no-install-recommends', *PACKAGES],
  ):
    done = subprocess.run(
      ['apt-get', '-q', *words],
      capture_output=True,
      text=True,
      check=False,
      env=os.environ | {'DEBIAN_FRONTEND': 'noninteractive'},
    )
    output = done.stderr.strip() or output
  return (
    f'{missing()} cannot be installed: {output.splitlines()[-1:]}'
    if missing()
    else ''
  )


def missing() -> list[str]:
  """Programs that are not installed; /usr/sbin may not be in PATH."""
  return [name for name in NEEDED if not _found(name)]


def _found(name):
  return shutil.which(name, path=f'{os.environ["PATH"]}:/usr/sbin')


@contextlib.contextmanager
def cluster(folder: pathlib.Path):
  """Yields the environment of sbatch and the other clients."""
  (folder / 'state').mkdir(parents=True)
  (folder / 'spool').mkdir()
  key = folder / 'munge.key'
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  user = subprocess.run(
    ['id', '-un'], capture_output=True, text=True, check=True
  ).stdout.strip()
  conf = folder / 'slurm.conf'
  conf.write_text(
    _CONF.format(
      host=socket.gethostname().partition('.')[0],
      user=user,
      folder=folder,
      ports=[_free_port(), _free_port()],
    )
  )
  env = {**os.environ, 'SLURM_CONF': str(conf)}
  with contextlib.ExitStack() as stack:
    for name, *words in (
      (
        'munged',
        '--foreground',
        '--force',
        f'--key-file={key}',
        f'--socket={folder}/munge.socket',
        f'--pid-file={folder}/munge.pid',
        f'--seed-file={folder}/munge.seed',
        f'--log-file={folder}/munge.log',
      ),
      ('slurmctld', '-D', '-c'),
      ('slurmd', '-D', '-c'),
    ):
      log = stack.enter_context((folder / f'{name}.out').open('w'))
      process = subprocess.Popen(
        [_found(name), *words], env=env, stdout=log, stderr=subprocess.STDOUT
      )
      stack.callback(_end, process)
      if name == 'munged':
        _until(lambda: (folder / 'munge.socket').exists(), process, folder)
    stack.callback(
      subprocess.run,
      ['scancel', '--full', '--state=RUNNING'],
      env=env,
      check=False,
    )
    _until(
      lambda: 'idle' in output(env, 'sinfo', '--noheader', '--format=%T'),
      process,
      folder,
    )
    yield env


def output(env, *command, check=False) -> str:
  """Output of a SLURM command."""
  done = subprocess.run(
    command, env=env, capture_output=True, text=True, check=False
  )
  assert not check or done.returncode == 0, (command, done.stderr)
  return done.stdout


def _until(holds, process, folder, seconds=60):
  deadline = time.monotonic() + seconds
  while not holds():
    late = time.monotonic() > deadline or process.poll() is not None
    assert not late, [
      p.read_text()[-2000:]
      for p in (*folder.glob('*.out'), *folder.glob('*.log'))
    ]
    time.sleep(0.1)


def _free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def _end(process):
  process.terminate()
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(20)
  process.kill()
  process.wait()
