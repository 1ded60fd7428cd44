"""Content of docs/launching.md; docs_shell_test.py runs its commands."""

import pathlib
import re

import pages
import pytest

from sana_jax.launch import cli
from sana_jax.launching import job, machines, restarts

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs/launching.md').read_text()
COMMANDS = [c for c in pages.commands(PAGE) if ' launch ' in c]


def test_every_place_is_shown():
  assert {re.search(r'--where (\S+)', c)[1] for c in COMMANDS} == {*job.PLACES}


def test_the_flags_of_the_page_are_those_of_the_command():
  parser, _ = cli.build_parsers('launch')
  known = set(
    re.findall(
      r'--[a-z-]+',
      parser._subparsers._group_actions[0].choices['launch'].format_usage(),
    )
  )
  text = re.sub(r'`[^`]*`|```\n.*?```', '', PAGE, flags=re.DOTALL)
  shown = set(re.findall(r'--[a-z-]+(?![a-z.])', text)) - {
    '--config',
    '---',
    '--',
  }
  shown |= {f for c in COMMANDS for f in re.findall(r'--[a-z-]+', c)}
  assert {f for f in shown if re.search('[a-z]', f)} <= known
  assert len(shown) > 15


def test_topologies_of_the_table_are_allowed():
  table = PAGE.partition('## Topologies')[2].partition('## Restarts')[0]
  named = re.findall(r'`(\w+:[\dx@]+)`', table)
  assert len(named) >= 6
  for name in named:
    machines.parse(name)
  for chip in (*machines.TPUS, *machines.GPUS):
    assert f'`{chip}`' in table, chip


def test_numbers_are_those_of_the_code():
  policy = restarts.Policy()
  assert f'after {policy.wait_seconds:g} s (--wait-seconds)' in PAGE
  assert f'after {policy.without_progress} (--restarts-without' in PAGE
  assert f'{policy.restarts} restarts (--restarts)' in PAGE
  assert policy.most_seconds == 600 and 'up to 10 minutes' in PAGE


def test_named_files_exist():
  for path in re.findall(r'`((?:sana_jax|launch|tests)/[\w./]+)', PAGE):
    assert (ROOT / path).exists(), path
  assert (ROOT / 'launch/local').stat().st_mode & 0o100
