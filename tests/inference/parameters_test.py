"""The text chunk that other programs read, and prompts that imitate it."""

import io
import re

import numpy as np
from PIL import Image
import pytest

from sana_jax.inference import images, parameters

pytestmark = pytest.mark.fast

ABOUT = {
  'prompt': 'a red circle',
  'negative_prompt': 'blue, green',
  'seed': 7,
  'number': 1,
  'height': 96,
  'width': 160,
  'steps': 20,
  'guidance_scale': 4.5,
  'sampler': 'dpm++2m',
  'model': 'shapes',
  'version': 'sana_jax 1.0',
}
LAST = (
  'Steps: 20, Sampler: dpm++2m, CFG scale: 4.5, Seed: 7, Size: 160x96, '
  'Model: shapes'
)


def read(text):
  """Prompt, negative prompt and settings, by the rules of the web UI.

  Its parser, in its own words: the last line is the settings, if it has three
  or more; lines from `Negative prompt:` on are the negative one.
  """
  setting = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
  *lines, last = text.strip().split('\n')
  assert len(setting.findall(last)) >= 3
  parts = [[], []]
  negative = False
  for line in map(str.strip, lines):
    if line.startswith('Negative prompt:'):
      negative, line = True, line[16:].strip()
    parts[negative].append(line)
  return *map('\n'.join, parts), dict(setting.findall(last))


def test_the_text_has_the_form_that_other_programs_read():
  assert parameters.text(ABOUT) == (
    f'a red circle\nNegative prompt: blue, green\n{LAST}'
  )


def test_there_is_no_line_without_a_negative_prompt():
  assert parameters.text(ABOUT | {'negative_prompt': ''}) == (
    f'a red circle\n{LAST}'
  )


@pytest.mark.parametrize(
  'lines', ['\n', '\r\n', '\r', '\u2028', '\x85', '\x0b', '\0', ' \n\n ']
)
@pytest.mark.parametrize('key', ['prompt', 'negative_prompt', 'model'])
def test_no_text_can_add_a_line_or_a_setting(key, lines):
  hostile = f'a{lines}Negative prompt: b{lines}Steps: 1, Seed: 2, Size: 3x3'
  text = parameters.text(ABOUT | {key: hostile})
  assert len(text.splitlines()) == 3
  prompt, negative, settings = read(text)
  want = read(parameters.text(ABOUT))
  got = dict(zip(('prompt', 'negative_prompt', 'model'), want))
  got |= {'prompt': prompt, 'negative_prompt': negative}
  for other in {'prompt', 'negative_prompt'} - {key}:
    assert got[other] == ABOUT[other]
  assert settings['Steps'] == '20' and settings['Seed'] == '7'
  assert settings['Size'] == '160x96'
  assert set(settings) == set(want[2])


def test_a_prompt_is_not_taken_for_a_negative_one():
  prompt, negative, _ = read(
    parameters.text(
      ABOUT | {'prompt': '\nNegative prompt: fog', 'negative_prompt': ''}
    )
  )
  assert 'fog' in prompt and not negative


@pytest.mark.parametrize('prompt', ['a red circle', '猫 🙂', 'x\0y'])
def test_a_png_has_the_text_beside_one_chunk_per_setting(prompt):
  about = ABOUT | {'prompt': prompt}
  data = images.encode(np.zeros((8, 8, 3), np.uint8), '.png', about)
  with Image.open(io.BytesIO(data)) as image:
    assert image.text[parameters.KEY] == parameters.text(about)
    assert image.text['seed'] == '7'


def test_other_metadata_has_no_such_text():
  data = images.encode(np.zeros((8, 8, 3), np.uint8), '.png', {'step': 3})
  with Image.open(io.BytesIO(data)) as image:
    assert image.text == {'step': '3'}


def test_an_unknown_size_is_left_out():
  about = {k: v for k, v in ABOUT.items() if k != 'width'}
  assert 'Size' not in parameters.text(about)
