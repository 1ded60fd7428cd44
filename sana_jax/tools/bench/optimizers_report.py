"""Records of optimizers: as a table, a page of the docs, and JSON."""

from collections.abc import Sequence
import dataclasses

from sana_jax.tools import tables
from sana_jax.tools.bench.optimizers import Rounding, State

_INTRODUCTION = """# Optimizers: memory, and what bytes lose

Bytes of the state beside the parameters, from its shapes, in float32 but for
`came_8bit` (blocks of 2048 elements) and `came_8bit_rows` (NVlabs/Sana's blocks
of 2048 rows), whose m is in bytes. 1 GB is 10^9 bytes. Gradients, parameters
and their average come on top, 4 bytes a parameter each.

Made by `sana-jax bench optimizers --out docs/bench`; each table's command is
above it.
"""
_PAPER = """SANA-1.5 (2501.18427) states 43 GB in place of 57 GB for training
the 1.6B with 8-bit CAME in place of AdamW, and an eighth of AdamW's state."""
_MEASURED = """*Measured* on m after {steps} steps of one block of
`{model}` from its initial weights, on random latents and captions. `error`:
norm of what one storage loses, by the norm of m; `below half a step`: elements
that their bytes cannot tell from 0; `drift`: how far the weights are from those
that plain CAME has trained in the same steps, by how far these have gone."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What was asked for and found, and what it was made with."""

  states: list[State]
  roundings: list[Rounding]
  trained: str  # Whose block.
  steps: int
  date: str
  device: str
  versions: dict[str, str]
  command: str


def state_rows(run: Run) -> list[tuple[str, ...]]:
  """A row an optimizer, two columns a model."""
  models = list(dict.fromkeys(s.model for s in run.states))
  of = {(s.model, s.optimizer): s for s in run.states}
  head = ['optimizer']
  for model in models:
    head += [f'{model}, GB', 'bytes a parameter']
  rows = [tuple(head)]
  for name in dict.fromkeys(s.optimizer for s in run.states):
    cells = [name]
    for model in models:
      s = of[model, name]
      cells += [f'{s.bytes / 1e9:.3f}', f'{s.bytes / s.parameters:.3f}']
    rows.append(tuple(cells))
  return rows


def rounding_rows(run: Run) -> list[tuple[str, ...]]:
  """A row a kind of blocks."""
  return [
    ('blocks', 'elements of one', 'error', 'of the worst matrix',
     'below half a step', 'drift'),
    *((r.blocks, f'{r.elements:,.0f}', f'{r.error:.2%}',
       f'{r.worst:.2%} ({r.worst_of})', f'{r.lost:.1%}', f'{r.drift:.2%}')
      for r in run.roundings)]


def table(run: Run) -> str:
  """Plain text."""
  lines = tables.plain(state_rows(run), 1)
  if run.roundings:
    lines += ['', *tables.plain(rounding_rows(run), 1)]
  return '\n'.join(lines)


def markdown(runs: Sequence[Run]) -> str:
  """The page: its tables for each run."""
  lines = [_INTRODUCTION]
  for run in runs:
    lines += [f'## {run.device}', '', f'`{run.command}`', '',
              f'{run.date} with {tables.listed(run.versions)}.', '',
              *tables.markdown(state_rows(run), 1), '', _PAPER,
              _saved(run), '']
    if run.roundings:
      lines += [_MEASURED.format(steps=run.steps, model=run.trained), '',
                *tables.markdown(rounding_rows(run), 1), '']
  return '\n'.join(lines)


def _saved(run):
  """How much smaller the states are here."""
  of = {(s.model, s.optimizer): s.bytes for s in run.states}
  return '\n'.join(
    f'The states of {model} differ by {(of[model, "adamw"] - ours) / 1e9:.1f} '
    f'GB; 8-bit CAME\'s is {ours / of[model, "adamw"]:.1%} of AdamW\'s.'
    for (model, name), ours in of.items()
    if name == 'came_8bit' and '1600m' in model)


def from_json(text: str | bytes) -> Run:
  """What `tables.to_json` wrote; UserError where it did not."""
  return tables.from_json(text, Run, states=State, roundings=Rounding)
