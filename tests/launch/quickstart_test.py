"""The first command of the README."""

import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_an_unknown_argument_is_a_one_line_error_and_exit_code_2():
  done = subprocess.run(
    [ROOT / 'launch' / 'quickstart', '--fast'], capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and '--fast' in done.stderr


def test_help_describes_the_command():
  done = subprocess.run(
    [ROOT / 'launch' / 'quickstart', '--help'], capture_output=True, text=True
  )
  assert done.returncode == 0 and 'trains a small SANA' in done.stdout


@pytest.mark.slow  # About ten minutes.
def test_a_model_trained_from_nothing_follows_its_prompts(tmp_path):
  subprocess.run(
    [ROOT / 'launch' / 'quickstart', '--out', tmp_path], check=True
  )
  record = json.loads((tmp_path / 'scores' / 'scores.json').read_text())
  assert record['scores']['overall']['accuracy'] >= 0.75
