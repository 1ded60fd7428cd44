"""The README's commands in a real shell, without this one's environment."""

import os
import pathlib
import sys

import pages
import pytest
from shells import executable, fresh_clone, shell

from sana_jax.launch import small_model

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
BLOCKS = pages.blocks(README)


def smaller(block):
  """The block with the smallest sizes, without the scripts of launch/."""
  lines = block.replace('\\\n', ' ').splitlines()
  lines = [line for line in lines if not line.startswith('launch/')]
  return '\n'.join(map(pages.smaller, lines))


@pytest.mark.docs
def test_each_block_of_the_readme_runs_in_a_new_shell(tmp_path):
  clone, first = fresh_clone(tmp_path)
  ran = 0
  for block in BLOCKS:
    if text := smaller(block):
      # Compiles in half of the time.
      shell(text, clone, first, XLA_FLAGS=os.environ['XLA_FLAGS'])
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
