"""Output of sana-jax plan: printed table and files of --out."""

import dataclasses
import json

from sana_jax import files
from sana_jax.launch import bench, output


def finish(args, overrides, pairs, notes, runner):
  """Prints the table and writes the report."""
  from sana_jax.analysis import ceilings
  from sana_jax.tools.plan import cache, page, pictures, tables

  command = command_line(args, overrides)
  plans = [plan for _, plan in pairs]
  chip, date = ceilings.measured(plans[0].pod.chip)
  if date:
    notes = [*notes, f'Times are by rates that were measured on {date}.']
  title = f'{args.config} on {args.topology}, {args.mode}'
  print(tables.plain(plans, chip))
  for note in notes:
    print(f'- {note}')
  facts = {
    'command': command,
    'plans': [dataclasses.asdict(p) for p in plans],
    'notes': notes,
    'compilers': cache.compilers(),
  }
  shown = title, plans, notes, command, chip
  with output.folder(args.out) as out:
    files.write_text(out / 'plan.json', json.dumps(facts, indent=1) + '\n')
    files.write_text(out / 'plan.html', page.page(*shown))
    drawn = pictures.all_of(plans, chip)
    for name, png in drawn.items():
      files.write_bytes(out / name, png)
    files.write_text(out / 'plan.md', tables.markdown(*shown, list(drawn)))
    write_layouts(out / 'layouts', pairs, command)
  if runner.compiled:
    print(
      f'{runner.compiled} compilations, {runner.cpu_seconds:.0f} CPU '
      f'seconds, at most {runner.host_bytes / 2**30:.1f} GiB each.'
    )


def write_layouts(folder, pairs, command):
  """Writes a file for sana-jax train --layout for each plan that fits."""
  for candidate, plan in pairs:
    if plan.fits:
      folder.mkdir(exist_ok=True)
      lines = [f'{k!r}: {v!r}' for k, v in candidate.layout().items()]
      files.write_text(
        folder / f'{candidate.name}.py',
        f'"""Made by {command}."""\n\nLAYOUT = {{\n  '
        + ',\n  '.join(lines)
        + '}\n',
      )


def command_line(args, overrides):
  """The command without its output folder."""
  return ' '.join([bench.repeated_by(args), *overrides])
