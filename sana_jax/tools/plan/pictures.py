"""Plots of plans: memory of a chip, and scaling of layouts."""

from collections.abc import Sequence
import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sana_jax.analysis.chips import Chip, GIB
from sana_jax.tools.plan import scaling
from sana_jax.tools.plan.report import Plan, predict, ranked

_COLOURS = {
  'parameters': '#4c78a8',
  'average': '#9ecae9',
  'optimizer': '#f58518',
  'batch': '#54a24b',
  'padding': '#bab0ac',
  'results': '#79706e',
  'temporaries': '#e45756',
  'code': '#b279a2',
}
_LINES = 6


def all_of(plans: Sequence[Plan], chip: Chip | None = None) -> dict[str, bytes]:
  """PNGs by file name: memory.png, scaling.png, or those that have content."""
  found = {}
  if any(p.memory for p in plans):
    found['memory.png'] = memory_bars(plans)
  if any(p.fits for p in plans):
    found['scaling.png'] = scaling_curve(plans, chip)
  return found


def memory_bars(plans: Sequence[Plan]) -> bytes:
  """PNG of each layout's bytes by kind, with a line at the limit."""
  plans = [p for p in ranked(plans) if p.memory]
  figure, axes = _figure(1.4 + 0.42 * len(plans))
  names = [p.layout for p in plans]
  left = [0.0] * len(plans)
  for kind in (k for k in _COLOURS if any(p.memory.get(k) for p in plans)):
    width = [p.memory.get(kind, 0) / GIB for p in plans]
    axes.barh(
      names, width, left=left, color=_COLOURS[kind], label=kind, height=0.7
    )
    left = [a + b for a, b in zip(left, width)]
  limit = plans[0].usable / GIB
  label = f'usable, {limit:.1f} GiB'
  axes.axvline(limit, color='black', lw=1.5, ls='--', label=label)
  for row, plan in enumerate(plans):
    label = f' {left[row]:.1f}' + ('' if plan.fits else ' (too large)')
    axes.text(left[row], row, label, va='center', fontsize=8)
  axes.set_xlim(0, 1.16 * max([limit, *left]))
  axes.invert_yaxis()
  axes.set_xlabel('GiB of a device')
  axes.set_title(f'Memory on {plans[0].topology}')
  handles = axes.get_legend_handles_labels()
  place = 'outside right center'
  figure.legend(*handles, frameon=False, fontsize=8, loc=place)
  return _png(figure)


def scaling_curve(plans: Sequence[Plan], chip: Chip | None = None) -> bytes:
  """PNG of predicted images/s of the best layouts on 1 to 1024 chips."""
  best = [p for p in ranked(plans, chip) if p.fits][:_LINES]
  figure, axes = _figure(4.5)
  for plan, marker in zip(best, 'osD^vP'):
    points = scaling.curve(plan, chip=chip)
    chips, rates = [p.chips for p in points], [p.rate for p in points]
    label = f'{plan.layout}, {plan.per_chip:g} a chip'
    (line,) = axes.plot(chips, rates, lw=1.3, label=label)
    colour = line.get_color()
    for p in points:
      fill = colour if p.fits else 'white'
      axes.plot(p.chips, p.rate, marker, ms=4, mew=1, color=colour, mfc=fill)
    rate = predict(plan, chip).images_per_second
    axes.plot(plan.pod.chips, rate, marker='*', ms=13, color=colour)
  if best:
    an_image = best[0].model_flops / best[0].batch
    peak = (chip or best[0].pod.chip).flops / an_image
    rates = [n * peak for n in scaling.COUNTS]
    dotted = dict(color='gray', ls=':', lw=1)
    axes.plot(scaling.COUNTS, rates, label='MFU of 100 %', **dotted)
  axes.set_xscale('log', base=2)
  axes.set_yscale('log')
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:,.0f}'))
  axes.set_xlabel(
    'chips (a star is the pod that was compiled for; hollow: '
    'the state would not fit)'
  )
  axes.set_ylabel('images a second, predicted')
  axes.set_title('The same images a chip on other pods')
  axes.grid(True, which='major', alpha=0.3)
  axes.legend(frameon=False, fontsize=8)
  return _png(figure)


def _figure(height):
  """A figure made without pyplot's global state and display."""
  figure = Figure(figsize=(9, height), dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  return figure, figure.add_subplot()


def _png(figure):
  png = io.BytesIO()
  figure.savefig(png, format='png')
  return png.getvalue()
