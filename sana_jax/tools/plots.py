"""Plots of reports as PNG files."""

from collections.abc import Collection, Mapping, Sequence
import io
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from sana_jax.tools.report import Bars

_LEAST_ERROR = 1e-8
COLOURS = '#4c78a8', '#f58518', '#54a24b', '#b279a2', '#9d755d', '#72b7b2'


def bars(content: Bars) -> bytes:
  """PNG of horizontal bars in groups; a bar has its value as label."""
  series = list(dict.fromkeys(s for x in content.groups.values() for s in x))
  colours = dict(zip(series, COLOURS * len(series)))
  count = sum(len(x) for x in content.groups.values())
  drawn = figure(9.0, 1.5 + 0.24 * count + 0.16 * len(content.groups))
  axes, row, ticks = drawn.add_subplot(), 0.0, []
  for values in content.groups.values():
    ticks.append(row + (len(values) - 1) / 2)
    for name, value in values.items():
      axes.barh(row, value, 0.9, color=colours[name])
      text = f' {value:{content.form}}'
      axes.text(value, row, text, va='center', fontsize=8)
      row += 1
    row += 0.7
  axes.set_yticks(ticks, list(content.groups), fontsize=8)
  axes.invert_yaxis()
  if content.log:
    axes.set_xscale('log')
  largest = max(v for x in content.groups.values() for v in x.values())
  axes.set_xlim(right=largest * (2.5 if content.log else 1.12))
  axes.set_xlabel(content.axis, fontsize=9)
  axes.set_title(content.title, fontsize=10)
  axes.spines[['top', 'right']].set_visible(False)
  if len(series) > 1:
    swatch = lambda name: axes.barh(0, 0, color=colours[name])
    drawn.legend(
      [swatch(name) for name in series],
      series,
      frameon=False,
      fontsize=8,
      ncols=4,
      loc='outside lower center',
    )
  return png(drawn)


def errors(rows: Sequence[tuple[str, float, float]]) -> bytes:
  """PNG of (group, error, bound) as points by group; a bar is a bound."""
  rows = [row for row in rows if math.isfinite(row[1])]
  groups = list(dict.fromkeys(group for group, _, _ in rows))
  drawn = figure(9.0, 1.4 + 0.42 * len(groups))
  axes = drawn.add_subplot()
  for mark, colour, of, label in (
    ('|', COLOURS[1], 2, 'bound'),
    ('.', COLOURS[0], 1, 'error'),
  ):
    values = [max(row[of], _LEAST_ERROR) for row in rows]
    places = [groups.index(row[0]) for row in rows]
    style = dict(s=70, color=colour, marker=mark, linewidth=1)
    axes.scatter(values, places, label=label, **style)
  axes.set_xscale('log')
  axes.set_yticks(range(len(groups)), groups, fontsize=8)
  axes.invert_yaxis()
  axes.set_xlabel(f'relative error; {_LEAST_ERROR:g} or less at the left')
  axes.grid(True, axis='x', alpha=0.3)
  drawn.legend(frameon=False, fontsize=8, ncols=2, loc='outside lower center')
  return png(drawn)


def chosen(values: Sequence[float], kept: Collection[int], title: str) -> bytes:
  """PNG of a bar for each value; those not kept have another colour."""
  drawn = figure(8.0, 3.2)
  axes = drawn.add_subplot()
  for name, colour, shown in (
    ('kept', COLOURS[0], [i for i in range(len(values)) if i in kept]),
    ('left out', COLOURS[1], [i for i in range(len(values)) if i not in kept]),
  ):
    bars = axes.bar(
      shown, [values[i] for i in shown], 0.8, color=colour, label=name
    )
    axes.bar_label(bars, fmt='{:.2g}', fontsize=8)
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.set_xlabel('block')
  axes.set_ylabel('1 - cosine of input and output')
  axes.set_title(title, fontsize=10)
  axes.spines[['top', 'right']].set_visible(False)
  drawn.legend(frameon=False, fontsize=8, ncols=2, loc='outside lower center')
  return png(drawn)


def best_of(
  counts: Sequence[int], scores: Mapping[str, Sequence[float]]
) -> bytes:
  """PNG of the expected best score against the number of candidates."""
  drawn = figure(6.0, 3.2 * len(scores))
  for i, (name, values) in enumerate(scores.items(), 1):
    axes = drawn.add_subplot(len(scores), 1, i)
    axes.plot(counts, values, '.-', color=COLOURS[0])
    axes.set_xscale('log', base=2)
    axes.set_xticks(counts, counts, fontsize=8)
    axes.set_xlabel('candidates')
    axes.set_ylabel('expected best score')
    axes.set_title(name, fontsize=10)
    axes.spines[['top', 'right']].set_visible(False)
  return png(drawn)


def figure(width: float | int, height: float | int) -> Figure:
  """A figure in inches, made without pyplot's global state and display."""
  made = Figure(figsize=(width, height), dpi=110, layout='constrained')
  FigureCanvasAgg(made)
  return made


def png(drawn: Figure) -> bytes:
  """PNG of a figure in 256 colours, a third of the size of one in all."""
  drawn.canvas.draw()
  image = Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())).convert('RGB')
  file = io.BytesIO()
  few = image.quantize(256, kmeans=1, dither=Image.Dither.NONE)
  few.save(file, 'PNG', optimize=True)
  return file.getvalue()
