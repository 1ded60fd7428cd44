"""The README's commands in a real shell, without this one's environment."""

import os
import pathlib
import re
import shlex
import stat
import subprocess
import sys
import sysconfig

import pytest
from shells import shell

from sana_jax.launch import small_model

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
SMALLER = {
  'sample': '--steps 1',
  'evaluate': '--per-kind 1 --num-images 1 --steps 1',
  'data': '--examples 32',
  'train': '--config.num_steps=1 --config.data.examples=32 '
  '--config.data.path=out/small --config.batch_size=8 --config.model.depth=2 '
  '--config.model.unroll=1 --config.optimizer.warmup_steps=0 '
  '--config.sampling.steps=1 --config.sampling.images=2',
}
# In place of the system's: venv makes one that has this one's packages, and a
# pip that checks its arguments instead of downloading.
PYTHON3 = """#!/bin/bash
set -eu
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3"
site=$("$3/bin/python" -c 'import sysconfig as s; print(s.get_path("purelib"))')
printf '%s\\n' "$PWD" {packages} >"$site/present.pth"
printf '#!/bin/sh\\nexec "%s/%s/bin/python" -m sana_jax.launch.cli "$@"\\n' \\
  "$PWD" "$3" >"$3/bin/sana-jax"
printf '#!/bin/sh\\n[ "$1 $2 $4 $5" = "install -e -c constraints.txt" ]\\n' \\
  >"$3/bin/pip"
chmod +x "$3/bin/sana-jax" "$3/bin/pip"
"""


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


def smaller(block):
  """The block with the smallest sizes, without the scripts of launch/."""
  lines = block.replace('\\\n', ' ').splitlines()
  lines = [line for line in lines if not line.startswith('launch/')]
  for index, line in enumerate(lines):
    words = shlex.split(line, comments=True)
    if words[:1] == ['sana-jax'] and words[1] in SMALLER:
      lines[index] = f'{line} {SMALLER[words[1]]}'
  return '\n'.join(lines)


@pytest.mark.docs
def test_each_block_of_the_readme_runs_in_a_new_shell(tmp_path):
  clone, first = tmp_path / 'clone', tmp_path / 'first'
  subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
  executable(
    first / 'python3',
    PYTHON3.format(
      python=shlex.quote(sys.executable),
      packages=shlex.quote(sysconfig.get_path('purelib')),
    ),
  )
  ran = 0
  for block in BLOCKS:
    if text := smaller(block):
      shell(text, clone, first)
      ran += text.count('sana-jax ')
  assert ran == README.count('\nsana-jax ') and ran > 4
  assert (clone / 'out/contact_sheet.png').is_file()
  assert (clone / 'out/native').is_dir()


def test_every_block_with_a_command_activates_the_environment():
  blocks = [block for block in BLOCKS if '\nsana-jax ' in f'\n{block}']
  assert len(blocks) > 1
  for block in blocks:
    before = block.partition('sana-jax ')[0]
    assert 'source .venv/bin/activate' in before, block


def lines_to_try(printed):
  return [
    line.strip()
    for line in printed.partition('Try next')[2].splitlines()[1:]
    if line.strip()
  ]


def test_the_lines_of_quickstart_run_in_a_new_shell(
  tmp_path, monkeypatch, capsys
):
  executable(tmp_path / '.venv/bin/python', '')
  executable(tmp_path / '.venv/bin/sana-jax', '#!/bin/sh\necho "ran $@"\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'executable', str(tmp_path / '.venv/bin/python'))
  monkeypatch.delenv('VIRTUAL_ENV', raising=False)
  small_model.finish(pathlib.Path('out/quick start'), 'out/m', 60.0)
  lines = lines_to_try(capsys.readouterr().out)
  commands = [shell(line, tmp_path).split()[1] for line in lines]
  assert commands == ['sample', 'evaluate', 'train']
  assert "'out/quick start/mine'" in lines[0]


def test_an_activated_environment_needs_no_path(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('VIRTUAL_ENV', sys.prefix)
  monkeypatch.setenv(
    'PATH', f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
  )
  small_model.finish(pathlib.Path('out'), 'out/m', 60.0)
  assert all(
    line.startswith('sana-jax ')
    for line in lines_to_try(capsys.readouterr().out)
  )
