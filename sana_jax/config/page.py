"""The documentation page of the keys, generated from the table.

python -m sana_jax.config.page > docs/config.md
"""

from collections.abc import Iterator
import itertools

from sana_jax.config.registry import table, TASKS
from sana_jax.keys import Effect, Key

_INTRODUCTION = """# Keys of a config

These are all keys of a run, with default, allowed values and what a change
affects, from the tables that the program itself checks.

A config is a Python file with `get_config(arg)`, which starts from
`sana_jax.config.train(task)` and assigns the keys that differ;
`--config.KEY=VALUE` changes a key from the command line. Recipes have values of
their own (`sana_jax/recipes.py`). Types are those of the defaults. A default in
parentheses is the module's: the key is optional. [Training](training.md) and
[data](data.md) explain the common ones.

| changes | effect of another value |
|---|---|
| result | other results, pictures or exports: a resumed run refuses it |
| program | another compiled program, and another plan of `sana-jax plan` |
| layout | another distribution over devices: a layout file may set it |
| cache | other latents and text on disk: another cache |
| cached text | the same, if text is cached |

This page is generated from `sana_jax/config/` by `python -m
sana_jax.config.page > docs/config.md`.
"""
_HEAD = '| key | default | allowed | changes | meaning |\n|---|---|---|---|---|'


def page() -> str:
  """The whole page, in Markdown."""
  shared = table(None)
  parts = [_INTRODUCTION, '## Every run\n', *_tables(shared)]
  for task in TASKS:
    own = {name: key for name, key in table(task).items() if name not in shared}
    parts += [f'## Task `{task}`\n', *_tables(own)]
  return '\n'.join(parts)


def _tables(keys: dict[str, Key]) -> Iterator[str]:
  """A table of the keys without a group, then one for each group."""
  group = lambda item: item[0].rpartition('.')[0].partition('.')[0]
  for name, items in itertools.groupby(sorted(keys.items(), key=group), group):
    if name:
      yield f'### `{name}`\n'
    yield '\n'.join([_HEAD, *(_row(*item) for item in items)]) + '\n'


def _row(name, key):
  default = f'`{key.default!r}`'
  cells = (
    f'`{name}`',
    f'({default})' if key.optional else default,
    ', '.join(_allowed(field) for field in key.own_check),
    ', '.join(
      effect.name.lower().replace('_', ' ')
      for effect in Effect
      if effect in key.changes
    ),
    key.comment,
  )
  return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def _allowed(field):
  return ', '.join(f'`{c!r}`' for c in field.choices) or field.allowed


if __name__ == '__main__':
  print(page(), end='')
