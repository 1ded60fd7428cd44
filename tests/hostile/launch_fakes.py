"""Schedulers and clouds in a folder: they run what they get in a real shell.

Each tool does to text what the real one does: sbatch reads #SBATCH lines,
Kubernetes expands $(VAR), gcloud's ssh gives its --command to a shell, xpk puts
its --command into YAML for Kubernetes and bash. Every one that gets an option
which we never give, and a command `canary`, leaves a file behind.
"""

import os
import pathlib
import re
import subprocess

import yaml

# Words a tool was called with, their number first.
_RECORD = 'printf \'%s\\0\' "$#" "$@" >>\'{folder}/\''
_TOOLS = {
  'canary': ": >'{folder}/canary'",
  'sudo': 'exec "$@"',
  'scancel': ':',
  'scontrol': ':',
  'sana-jax': _RECORD + 'trained',
  # As supervise does, and as a task of srun.
  'python': _RECORD
  + """python
case "$4" in
  sana_jax.launch.cli) shift 4; exec sana-jax "$@" ;;
  *) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
esac""",
  'sbatch': """case "$1" in -*) canary ;; esac
cp -- "$1" '{folder}/submitted'; echo Submitted batch job 7""",
  'kubectl': """[ "$1 $2" = 'apply -f' ] || canary
cp -- "$3" '{folder}/submitted'; echo created""",
  'srun': """while :; do case "$1" in
  --kill-on-bad-exit=1 | --open-mode=append | --cpus-per-task=8 | --output=*)
    shift ;;
  -*) canary; exit 2 ;;
  *) exec "$@" ;;
esac; done""",
  'xpk': _RECORD + 'xpk',
  # Queued resources that are there at once; a host's login shell is bash.
  'gcloud': _RECORD
  + """gcloud
[ "$4" != list ] || echo ACTIVE
case "$4" in ssh) for last; do :; done; exec bash -c "${{last#--command=}}" ;;
esac""",
  'docker': '''[ "$1" != wait ] || echo 0
[ "$1" = run ] || exit 0
shift
while :; do case "$1" in
  --detach | --privileged | --net=host | --name=[a-z]*) shift ;;
  --volume=/shared:/shared) shift ;;
  --env=SANA_JAX_RUN=* | --env=SANA_JAX_ATTEMPT=*) shift ;;
  -*) canary; exit 2 ;;
  *) break ;;
esac; done
printf %s "$1" >'{folder}/image'; shift; exec "$@"''',
}


class Cloud:
  """All tools, in a folder; `path` has them before those of the machine."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.tools = folder, folder / 'tools'
    self.tools.mkdir(parents=True)
    for name, text in _TOOLS.items():
      self.put(self.tools / name, text)
    self.path = f'{self.tools}:{os.environ["PATH"]}'

  def put(self, path: pathlib.Path, text: str = _TOOLS['python']) -> None:
    """Makes a tool."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text.format(folder=self.folder)}\n')
    path.chmod(0o755)

  def clear(self) -> None:
    """Forgets all calls."""
    for path in self.folder.glob('*'):
      if path.is_file():
        path.unlink()

  @property
  def attacked(self) -> bool:
    return (self.folder / 'canary').exists()

  def calls(self, name: str) -> list[list[str]]:
    """Arguments of each call that was recorded."""
    path = self.folder / name
    words = path.read_bytes().split(b'\0')[:-1] if path.exists() else []
    found = []
    while words:
      count = int(words[0])
      found.append([os.fsdecode(w) for w in words[1 : count + 1]])
      words = words[count + 1 :]
    return found

  def run(self, *command, cwd=None, **env) -> None:
    """Runs it with these tools; its end must be a good one."""
    done = subprocess.run(
      command,
      env={
        'PATH': self.path,
        'HOME': str(self.folder),
        'SANA_JAX_RUN': '$(canary) `canary`; canary \'"',
        **env,
      },
      cwd=cwd or self.folder,
      capture_output=True,
      check=False,
      timeout=10,
    )
    assert done.returncode == 0 and not done.stderr, (command, done.stderr)

  def slurm(self) -> dict[str, str]:
    """Runs what was submitted; the options that sbatch read in it."""
    path = self.folder / 'submitted'
    options = {}
    for word in sbatch_words(path.read_text()):
      key, _, value = word.partition('=')
      assert key.startswith('--') and key not in options, word
      options[key[2:]] = value
    self.run('bash', str(path), SLURM_JOB_ID='7', SLURM_CPUS_ON_NODE='8')
    return options

  def kubernetes(self) -> tuple[dict, dict]:
    """Runs the container of what was submitted; its manifest and itself."""
    manifest = yaml.safe_load((self.folder / 'submitted').read_text())
    (job,) = manifest['spec']['replicatedJobs']
    (train,) = job['template']['spec']['template']['spec']['containers']
    self.container(train, HOST='3', SLICE='1', JOBSET='uid')
    return manifest, train

  def container(self, container: dict, **env) -> None:
    """Runs it as a kubelet does."""
    self.run(
      *(
        expand(word, env)
        for word in (*container['command'], *container.get('args', ()))
      ),
      **env,
    )

  def xpk(self) -> dict[str, str]:
    """Runs the --command that xpk got; its options."""
    (words,) = self.calls('xpk')
    options = dict(w.removeprefix('--').split('=', 1) for w in words[2:])
    self.container(yaml.safe_load(_XPK.format(command=options['command'])))
    return options


_XPK = """
command:
- bash
- -c
- |
  _sigterm() (kill -SIGTERM $! 2>/dev/null;);
  trap _sigterm SIGTERM;
  ({command}) & PID=$!;
  wait $PID;
  EXIT_CODE=$?;
  exit $EXIT_CODE
"""


def sbatch_words(script: str) -> list[str]:
  """Words of the #SBATCH lines before the first command.

  Quotes of both kinds join words, a backslash escapes in either, and # begins a
  comment.
  """
  words = []
  for line in script.split('\n'):
    if line.startswith('#SBATCH'):
      words += _words(line.removeprefix('#SBATCH'))
    elif line.strip() and not line.lstrip().startswith('#'):
      break
  return words


def _words(line):
  words, word, quote, escaped = [], None, '', False
  for letter in line:
    if escaped:
      word, escaped = word + letter, False
    elif letter == '\\':
      word, escaped = word or '', True
    elif letter == quote:
      quote = ''
    elif letter in '\'"' and not quote:
      word, quote = word or '', letter
    elif quote or not (letter.isspace() or letter == '#'):
      word = (word or '') + letter
    else:
      words += [word] if word is not None else []
      word = None
      if letter == '#':
        break
  assert not quote, line
  return words + ([word] if word is not None else [])


def expand(text: str, env: dict[str, str]) -> str:
  """$(VAR) of a container's command and args, as Kubernetes expands it.

  $$ is a $; a name that is not in `env` stays as it is.
  """
  return re.sub(
    r'\$(?:(\$)|\(([^)]*)\))', lambda m: m[1] or env.get(m[2], m[0]), text
  )
