"""Model card: README.md with the YAML header that the Hugging Face hub reads.

Names are written by users: in the header they are quoted as JSON strings, which
are YAML; in the text every special character of Markdown is escaped.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import re
from typing import Any

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.printable import printable

NAME = 'README.md'
PLACE = 'OWNER/NAME'  # Stands for the hub id, which `push` fills in.
WRITTEN = '<!-- Written by sana-jax export. -->'
LICENCES = 'an identifier of the hub such as apache-2.0, or other'
MOST_BYTES = 2**20
_LICENCE = re.compile(r'[a-z0-9][a-z0-9.+-]{0,59}')
_STATED = re.compile(r"""license: *(["']?)([a-z0-9.+-]{1,60})\1""")
_SPECIAL = re.compile(r'([\\`*_{}\[\]()<>#+.!|~&:/@$"\'^=-])')
_SCORES = {'accuracy': 'right', 'strict': 'nothing else', 'chance': 'by chance'}


@dataclasses.dataclass(frozen=True)
class Card:
  """Facts of a model.

  Attributes:
    licence: identifier of the hub; None if it is not stated.
    base: name of the model that training started from, if any.
    base_licence: its licence in words, for a card without one.
    base_id: its hub id, if it has one.
    facts: rows of the table.
    copied: models whose parts are in the folder unchanged, by part.
    scores: content of a scores.json of `sana-jax evaluate`.
    picture: name of a file with samples in the folder.
    pipeline: its class in diffusers; '' for a part of such a model.
  """

  title: str
  facts: Mapping[str, str]
  licence: str | None = None
  base: str | None = None
  base_licence: str | None = None
  base_id: str | None = None
  copied: Mapping[str, str] = dataclasses.field(default_factory=dict)
  scores: Mapping[str, Any] | None = None
  picture: str | None = None
  pipeline: str = 'SanaPipeline'


def check_licence(value: str | None) -> None:
  """Raises UserError for a licence that the header cannot hold."""
  if value is not None and not _LICENCE.fullmatch(value):
    raise UserError(
      f'--license is {printable(repr(value), 80)}; it must be {LICENCES}.',
      key='--license',
      value=value,
      allowed=LICENCES,
    )


def licence_in(folder: pathlib.Path) -> str | None:
  """The licence in the header of a folder's card, if it states one."""
  try:
    text = files.read_bytes(folder / NAME, MOST_BYTES).decode('utf-8')
  except (OSError, ValueError):
    return None
  first, *lines = text.splitlines() or ['']
  if first.strip() != '---':
    return None
  for line in lines:
    if line.strip() == '---':
      break
    if found := _STATED.fullmatch(line.rstrip()):
      return found[2]
  return None


def text(card: Card) -> str:
  """The card's text."""
  parts = [
    _header(card),
    WRITTEN,
    f'# {escaped(card.title)}',
    _opening(card),
  ]
  if card.picture:
    parts.append(f'![Samples of the run](./{card.picture})')
  parts += ['## Training', _table(('', ''), card.facts.items())]
  parts += _scored(card.scores)
  parts += ['## Use', _use(card), '## Licence', _licence(card)]
  return '\n\n'.join(parts) + '\n'


def escaped(value: object, most: int = 200) -> str:
  """A user's text on one line, without Markdown, HTML or links."""
  plain = ' '.join(printable(value, most).split())
  return _SPECIAL.sub(r'\\\1', plain)


def _header(card):
  rows = {} if card.licence is None else {'license': card.licence}
  rows['library_name'] = 'diffusers'
  if card.pipeline:
    rows['pipeline_tag'] = 'text-to-image'
  if card.base_id:
    rows['base_model'] = card.base_id
  rows['tags'] = ['sana', 'jax', 'flax', 'sana_jax']
  quoted = lambda value: json.dumps(value, ensure_ascii=False)
  return '\n'.join(
    ['---', *(f'{k}: {quoted(v)}' for k, v in rows.items()), '---']
  )


def _opening(card):
  kind = 'A text-to-image model' if card.pipeline else 'Part of a model'
  started = '.'
  if card.base:
    started = f', started from {escaped(card.base)}.'
  return f'{kind} of the SANA family, trained with sana_jax{started}'


def _table(head, rows):
  lines = [head, ('---',) * len(head), *rows]
  return '\n'.join(
    f'| {" | ".join(c if c == "---" else escaped(c) for c in line)} |'
    for line in lines
  )


def _scored(scores):
  """The section on scores; empty without valid ones."""
  kinds = (scores or {}).get('scores')
  if not isinstance(kinds, Mapping):
    return []
  rows = [
    (str(kind), *(_percent(score.get(key)) for key in _SCORES))
    for kind, score in list(kinds.items())[:50]
    if isinstance(score, Mapping)
  ]
  if not rows:
    return []
  settings = ', '.join(
    f'{key} {escaped(scores[key], 80)}'
    for key in ('model', 'steps', 'guidance_scale', 'sampler', 'seed')
    if key in scores
  )
  return [
    '## Scores',
    'Written by `sana-jax evaluate`' + f' ({settings})' * bool(settings) + '.',
    _table(('kind', *_SCORES.values()), rows),
  ]


def _percent(value):
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return f'{100 * value:.1f} %' if number and 0 <= value <= 1 else ''


def _use(card):
  if not card.pipeline:
    return (
      'Its folder is a part that `sana-jax train` and `sana-jax convert` take; '
      'diffusers and transformers load it by its class in `config.json`.'
    )
  return f"""```python
import sana_jax

pipe = sana_jax.Pipeline.from_pretrained('{PLACE}')
pipe('a red circle', seed=0).images[0].save('out.png')
```

```python
import diffusers

pipe = diffusers.{card.pipeline}.from_pretrained('{PLACE}')
pipe('a red circle').images[0].save('out.png')
```"""


def _licence(card):
  stated = 'The licence of this model is not stated.'
  if card.licence:
    stated = f'Licence: {escaped(card.licence)}.'
  elif card.base_licence:
    stated += f' That of the base model: {escaped(card.base_licence, 400)}.'
  copied = ', '.join(
    f'{escaped(part)} of {escaped(name)}' for part, name in card.copied.items()
  )
  if copied:
    stated += f' Parts copied from other models keep their licences: {copied}.'
  return stated
