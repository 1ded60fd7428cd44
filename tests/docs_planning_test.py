"""What docs/planning.md shows can be asked for; its table is what was written.

Compiling takes minutes, so that commands stop before it, at the missing
compiler.
"""

import pathlib
import re
import shlex

import pytest

from sana_jax.launch import cli
from sana_jax.sharding import topologies

PAGE = (pathlib.Path(__file__).parents[1] / 'docs/planning.md').read_text()
COMMANDS = [line for block in re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
            for line in block.splitlines()]


@pytest.mark.parametrize('line', [
  c for c in COMMANDS if '--topology' in c])
def test_a_command_is_understood(line, monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda _: None)
  assert cli.main(shlex.split(line)[1:]) == 2
  assert 'Compiling for these needs the package' in capsys.readouterr().err


def test_the_flags_of_the_page_are_those_of_the_command():
  parser, _ = cli.build_parsers('plan')
  known = set(re.findall(r'--[a-z-]+', parser._subparsers._group_actions[0]
                         .choices['plan'].format_usage()))
  shown = {flag for line in COMMANDS for flag in re.findall(r'--[a-z-]+', line)}
  assert shown <= known and len(shown) > 6
