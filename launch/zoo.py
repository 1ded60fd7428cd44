"""List the published checkpoints, by names that other commands accept.

  sana-jax zoo
  sana-jax zoo sana_1600m_1024_bf16
  sana-jax zoo --json

Without a name, prints a table of all; with one, its config, licence and use.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import json
import textwrap
from typing import Any

from sana_jax.launch.flags import text
from sana_jax.printable import counted

_SAMPLED = (
  'yes, sana-jax sample --model NAME makes pictures with it; no, its weights '
  'load and convert, nothing more yet; part, it is one part of a model.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument('name', nargs='?', type=text, help='name of a checkpoint')
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
  """Prints all checkpoints or one; returns the exit code."""
  from sana_jax.weights import zoo

  entries = [zoo.get(args.name)] if args.name else list(zoo.ENTRIES)
  if args.json:
    records = [record(entry) for entry in entries]
    print(json.dumps(records[0] if args.name else records, indent=2))
  elif args.name:
    print('\n'.join(details(entries[0])))
  else:
    print('\n'.join(table(entries)))
  return 0


def record(entry) -> dict[str, Any]:
  """Converts an entry to JSON, with the config.json of its parts."""
  return {
    **dataclasses.asdict(entry),
    'size_px': entry.size_px,
    'can_sample': entry.can_sample,
    'configs': entry.configs(),
  }


def table(entries: Sequence) -> list[str]:
  """Table with a line per entry, then the numbered notes."""
  notes = list(dict.fromkeys(e.note for e in entries if e.note))
  rows = [('name', 'sample', 'parameters', 'px', 'dtype', 'note', 'hub id')]
  for e in entries:
    rows.append(
      (
        e.name,
        sampled(e),
        f'{e.parameters / 1e6:,.0f} M',
        str(e.size_px or '-'),
        e.dtypes[e.part],
        f'[{notes.index(e.note) + 1}]' if e.note else '',
        e.hub_id or f'{e.official_hub_id} (.pth)',
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows)]
  right = (False, False, True, True, False, False, False)
  lines = [
    '  '.join(
      cell.rjust(w) if r else cell.ljust(w)
      for cell, w, r in zip(row, widths, right)
    ).rstrip()
    for row in rows
  ]
  return (
    lines
    + ['']
    + _wrap('sample: ', _SAMPLED)
    + [
      line for i, note in enumerate(notes, 1) for line in _wrap(f'[{i}] ', note)
    ]
  )


def sampled(entry) -> str:
  """Whether sana-jax sample makes pictures with an entry."""
  return 'yes' if entry.can_sample else 'part' if entry.is_part else 'no'


def details(entry) -> list[str]:
  """Text with all fields of an entry."""
  from sana_jax.weights import zoo

  facts = {
    'kind': entry.kind,
    'sample': sampled(entry),
    'parameters': f'{entry.parameters:,} ({entry.part})',
    'size': f'{entry.size_px} px' if entry.size_px else '',
    'hub id': entry.hub_id or 'not published in the diffusers layout',
    'official': entry.official_hub_id or '',
    'dtypes': _pairs(entry.dtypes),
    'sampling': _sampling(entry),
    'licence': entry.licence,
    'note': entry.note,
    'config from': ', '.join(zoo.SOURCES[letter] for letter in entry.source),
  }
  lines = [entry.name]
  for name, value in facts.items():
    lines += _wrap(f'  {name:13}', value) if value else []
  lines += ['', 'config; other fields have their defaults:']
  for part, fields in entry.fields.items():
    lines += _wrap(f'  {part:13}', _pairs(fields))
  return [*lines, '', 'use:', *(f'  {line}' for line in usage(entry))]


def usage(entry) -> list[str]:
  """Example commands of an entry."""
  if not entry.hub_id:
    return [
      f'hf download {entry.official_hub_id}',
      f'sana-jax convert --from FILE.pth --like {entry.name} --to DIR '
      '--format diffusers',
    ]
  convert = f'sana-jax convert --from {entry.name} --to DIR --format orbax'
  if not entry.can_sample:
    return [convert]
  return [
    f'sana-jax sample --model {entry.name} --prompt "a red circle" --out DIR',
    convert,
  ]


def _sampling(entry):
  if entry.sampler is None:
    return ''
  sampling = (
    f'{entry.sampler}, {counted(entry.steps, "step")}, '
    f'guidance {entry.guidance}'
  )
  if entry.flow_shift is not None:
    sampling += f', flow shift {entry.flow_shift}'
  if entry.official_flow_shift is not None:
    sampling += f" ({entry.official_flow_shift} in NVIDIA's config)"
  return sampling


def _pairs(values: Mapping[str, Any]) -> str:
  return ', '.join(f'{k} {v}' for k, v in values.items())


def _wrap(start, value):
  return textwrap.wrap(
    value,
    80,
    initial_indent=start,
    subsequent_indent=' ' * len(start),
    break_long_words=False,
    break_on_hyphens=False,
  )
