"""Plans as pictures: what fills a chip's memory, and how a layout scales."""

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


def memory_bars(plans: Sequence[Plan]) -> bytes:
  """A PNG: a bar a layout, by what its bytes are for; a line at the limit."""
  plans = [p for p in ranked(plans) if p.memory]
  figure = Figure(
    figsize=(9, 1.4 + 0.42 * len(plans)), dpi=120, layout='constrained'
  )
  FigureCanvasAgg(figure)  # Without pyplot: no global state, no display.
  axes = figure.add_subplot()
  names = [p.layout for p in plans]
  left = [0.0] * len(plans)
  for kind in (k for k in _COLOURS if any(p.memory.get(k) for p in plans)):
    width = [p.memory.get(kind, 0) / GIB for p in plans]
    axes.barh(
      names, width, left=left, color=_COLOURS[kind], label=kind, height=0.7
    )
    left = [a + b for a, b in zip(left, width)]
  limit = plans[0].usable / GIB
  axes.axvline(
    limit, color='black', lw=1.5, ls='--', label=f'usable, {limit:.1f} GiB'
  )
  for row, plan in enumerate(plans):
    said = f' {left[row]:.1f}' + ('' if plan.fits else ' (too large)')
    axes.text(left[row], row, said, va='center', fontsize=8)
  axes.set_xlim(0, 1.16 * max([limit, *left]))
  axes.invert_yaxis()
  axes.set_xlabel('GiB of a device')
  axes.set_title(f'Memory on {plans[0].topology}')
  figure.legend(
    *axes.get_legend_handles_labels(),
    frameon=False,
    fontsize=8,
    loc='outside right center',
  )
  return _png(figure)


def scaling_curve(plans: Sequence[Plan], chip: Chip | None = None) -> bytes:
  """A PNG: predicted images a second of the best layouts on 1 to 1024 chips."""
  best = [p for p in ranked(plans, chip) if p.fits][:_LINES]
  figure = Figure(figsize=(9, 4.5), dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  for plan, marker in zip(best, 'osD^vP'):
    points = scaling.curve(plan, chip=chip)
    (line,) = axes.plot(
      [p.chips for p in points],
      [p.rate for p in points],
      lw=1.3,
      label=f'{plan.layout}, {plan.per_chip:g} a chip',
    )
    for point in points:
      axes.plot(
        [point.chips],
        [point.rate],
        marker,
        ms=4,
        mew=1,
        color=line.get_color(),
        mfc=line.get_color() if point.fits else 'white',
      )
    axes.plot(
      [plan.pod.chips],
      [predict(plan, chip).images_per_second],
      marker='*',
      ms=13,
      color=line.get_color(),
    )
  if best:
    peak = (chip or best[0].pod.chip).flops / (
      best[0].model_flops / best[0].batch
    )
    counts = scaling.COUNTS
    axes.plot(
      counts,
      [n * peak for n in counts],
      color='gray',
      ls=':',
      lw=1,
      label='MFU of 100 %',
    )
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


def _png(figure):
  png = io.BytesIO()
  figure.savefig(png, format='png')
  return png.getvalue()
