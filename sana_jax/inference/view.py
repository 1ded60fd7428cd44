"""Parts of the demo's page that the server writes, as HTML.

All text in them is escaped, also for Gradio's templates, which would evaluate
braces and dollar signs.
"""

import base64
from collections.abc import Sequence
import html
import itertools
import json
from typing import Any, NamedTuple

from sana_jax.inference.demo import DrawRequest, File, FILES

_SERIAL = itertools.count()
_TEMPLATES = str.maketrans({c: f'&#{ord(c)};' for c in '{}$`\\'})


class View(NamedTuple):
  """Contents of the page's outputs, in order; None leaves one as it is."""

  pictures: str | None = None
  progress: str = ''
  status: str | None = ''
  error: str = ''
  seed: int | None = None


def escaped(text: object) -> str:
  """Text for HTML, in an element or a quoted attribute."""
  return html.escape(str(text)).translate(_TEMPLATES)


def pictures(request: DrawRequest, files: Sequence[File], paths) -> str:
  """Finished pictures; their settings are data for the page's scripts."""
  settings = request._asdict()
  for key in FILES:  # The page has them still.
    del settings[key]
  made = {
    'settings': settings,
    'pictures': [
      {'src': path, 'name': file.name, 'caption': file.caption}
      for path, file in zip(paths, files)
    ],
  }
  figures = [
    _figure(
      request,
      path,
      f'<span>{escaped(file.caption)}</span> '
      f'<a href="{escaped(path)}" download="{escaped(file.name)}" '
      f'aria-label="Download picture {k}">Download</a>',
      k,
    )
    for k, (path, file) in enumerate(zip(paths, files), 1)
  ]
  return _grid(figures, f' data-made="{escaped(json.dumps(made))}"')


def previews(request: DrawRequest, files: Sequence[bytes], done: int) -> str:
  """Unfinished pictures, or empty places before the first."""
  caption = f'<span>preview after step {done}</span>' if files else ''
  shown = [
    f'data:image/jpeg;base64,{base64.b64encode(x).decode()}' for x in files
  ]
  return _grid(
    [
      _figure(request, src, caption)
      for src in shown or [None] * request.num_images
    ],
    ' data-unfinished',
  )


def progress(text: str, done: int = 0, of: int = 0) -> str:
  """A bar, without an end if `of` is 0, and a text."""
  value = f' max="{of}" value="{done}"' if of else ''
  return (
    f'<div class="sana-progress"><progress aria-label="Progress"{value}>'
    f'</progress><span>{escaped(text)}</span></div>'
  )


def status(report: str, notes: Sequence[str] = ()) -> str:
  """The report of a request, and notes below it."""
  return ''.join(
    [
      f'<p>{escaped(report)}</p>' if report else '',
      *(f'<p class="sana-note">{escaped(note)}</p>' for note in notes),
    ]
  )


def error(sentence: str) -> str:
  """An error, for the scripts; equal ones differ, so that each is shown."""
  return f'<div data-error="{next(_SERIAL)}">{escaped(sentence)}</div>'


def examples(prompts: Sequence[str]) -> str:
  """Buttons that draw a prompt."""
  buttons = ''.join(
    f'<button type="button" data-example="{escaped(p)}">{escaped(p)}</button>'
    for p in prompts
  )
  return (
    '<div class="sana-examples" role="group" aria-label="Examples">'
    f'<span>Try</span>{buttons}</div>'
  )


def config(**values: Any) -> str:
  """Values for the scripts, in the page's head."""
  text = json.dumps(values).replace('<', '\\u003c')
  return f'<script type="application/json" id="sana-config">{text}</script>'


def _figure(request, src, caption, number=0):
  """A picture in its place; one with a number can be enlarged."""
  image = ''
  if src:
    image = (
      f'<img src="{escaped(src)}" alt="{escaped(request.prompt)}" '
      f'width="{request.width}" height="{request.height}">'
    )
  if number:
    image = (
      f'<button type="button" class="sana-open" data-index="{number - 1}" '
      f'aria-label="Enlarge picture {number}: {escaped(request.prompt[:200])}">'
      f'{image}</button>'
    )
  shape = f'aspect-ratio: {request.width} / {request.height}'
  return (
    f'<figure><div class="sana-frame" style="{shape}">{image}</div>'
    f'<figcaption>{caption}</figcaption></figure>'
  )


def _grid(figures, attributes):
  kind = 'one' if len(figures) == 1 else 'many'
  return f'<div class="sana-grid {kind}"{attributes}>{"".join(figures)}</div>'
