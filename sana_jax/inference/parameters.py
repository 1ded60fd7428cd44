"""Settings of a picture as one text, in the form of the AUTOMATIC1111 web UI.

  PROMPT
  Negative prompt: NEGATIVE
  Steps: 20, Sampler: euler, CFG scale: 4.5, Seed: 0, Size: 128x128, Model: NAME

Image viewers, ComfyUI and galleries read it from a PNG's text chunk
`parameters`. The second line is missing without a negative prompt. Readers
split the text at line breaks and take the last line for the settings, so a line
break in a prompt becomes a blank: no prompt can add or change a setting.
"""

from collections.abc import Mapping
import json
import re
from typing import Any

KEY = 'parameters'
_NEGATIVE = 'Negative prompt:'
# Label by key of the metadata, in the order of the text.
_LABELS = {
  'steps': 'Steps',
  'sampler': 'Sampler',
  'guidance_scale': 'CFG scale',
  'seed': 'Seed',
  'size': 'Size',
  'model': 'Model',
  'lora': 'Lora',
}
# Control characters, and all that ends a line for str.splitlines.
_BREAKS = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029]+')


def text(about: Mapping[str, Any]) -> str:
  """The text for a picture's metadata (see gallery.about)."""
  prompt, negative = (
    _line(about.get(key, '')) for key in ('prompt', 'negative_prompt')
  )
  if prompt.startswith(_NEGATIVE):  # It would be read as the second line.
    prompt = f'({prompt})'
  values = dict(about)
  if {'width', 'height'} <= set(values):
    values['size'] = f'{values["width"]}x{values["height"]}'
  settings = ', '.join(
    f'{label}: {_quoted(values[key])}'
    for key, label in _LABELS.items()
    if key in values
  )
  middle = [f'{_NEGATIVE} {negative}'] if negative else []
  return '\n'.join([prompt, *middle, settings])


def _line(value):
  return _BREAKS.sub(' ', str(value)).strip()


def _quoted(value):
  """A value on one line, in quotes if it has a separator, as the UI does it."""
  value = _line(value)
  separators = any(c in value for c in ',:"\\')
  return json.dumps(value, ensure_ascii=False) if separators else value
