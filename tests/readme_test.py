"""Content of the README; readme_shell_test.py runs its commands."""

import json
import pathlib
import re

import pages
from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


@pytest.mark.docs
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (code,) = pages.blocks(README, ['python'])
  exec(code, {})
  with Image.open('out.png') as image:
    assert image.size == (128, 128)


def test_the_scripts_and_files_that_the_readme_names_exist():
  for line in ''.join(pages.blocks(README)).splitlines():
    if line.startswith('launch/'):
      assert (ROOT / line.split()[0]).stat().st_mode & 0o100, line
  folders = 'sana_jax|kernels|configs|launch|docs'
  for path in re.findall(rf'`((?:{folders})/[\w./]*)`', README):
    assert (ROOT / path).exists(), path


def test_the_scores_of_the_readme_are_those_of_the_shipped_model():
  scores = json.loads((ROOT / 'docs' / 'scores.json').read_text())['scores']
  overall = f'{100 * scores["overall"]["accuracy"]:.1f} %'
  assert overall in README
