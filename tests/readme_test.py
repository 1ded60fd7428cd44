"""Content of the README; readme_shell_test.py runs its commands."""

import json
import pathlib
import re

import numpy as np
import pages
from PIL import Image
import pytest

from sana_jax import Pipeline
from sana_jax.data.shapes import KINDS, meaning
from sana_jax.evaluation import shapes_detector, shapes_suite

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


def test_the_scores_of_the_docs_are_those_of_a_good_model():
  record = json.loads((ROOT / 'docs' / 'scores.json').read_text())
  assert record['model'] == 'shapes'
  scores = record['scores']
  assert scores.keys() == {*KINDS, 'overall'}
  assert scores['overall']['accuracy'] >= 0.98
  assert scores['overall']['images'] == 160 * len(KINDS)
  for kind in KINDS:
    assert scores[kind]['accuracy'] >= 0.97, kind
    assert scores[kind]['images'] == 160, kind


@pytest.mark.long
def test_the_first_pictures_of_the_readme_follow_their_prompts():
  (command,) = re.findall(r'sana-jax sample --model shapes .*', README)
  (prompt,) = re.findall(r'--prompt "(.*?)"', command)
  pipe = Pipeline.from_pretrained('shapes', 'float32')
  image = pipe(prompt, seed=0, output_type='uint8').images[0]
  assert prompt == 'a red circle left of a blue square'
  found = shapes_detector.detect(np.asarray(image))
  assert shapes_suite.follows_strictly(meaning(prompt), found)
