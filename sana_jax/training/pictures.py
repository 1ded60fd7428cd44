"""Pictures of a run: its loss curve and its sample grids."""

import io
import math

from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from sana_jax.printable import counted
from sana_jax.training.jsonl_log import read_lines
from sana_jax.training.workdir import write_atomically


def save_loss_curve(workdir: epath.Path, name: str) -> None:
  """Plots metrics.jsonl as loss.png, if it has at least two lines."""
  lines = [
    x
    for x in read_lines(workdir / 'metrics.jsonl')
    if x.get('loss') is not None and math.isfinite(x['loss'])
  ]
  if len(lines) < 2:
    return
  steps = np.array([x['step'] for x in lines])
  losses = np.array([x['loss'] for x in lines])
  write_atomically(workdir / 'loss.png', loss_curve(steps, losses, name))


def loss_curve(steps: np.ndarray, losses: np.ndarray, name: str) -> bytes:
  """A PNG of the raw and the smoothed loss over the steps."""
  smoothed = smooth(losses)
  figure = Figure(figsize=(8, 4.5), dpi=120)
  FigureCanvasAgg(figure)  # Without pyplot: no global state, no display.
  axes = figure.add_axes(
    (0.1, 0.12, 0.87, 0.8)
  )  # An automatic layout takes half the time.
  axes.plot(steps, losses, color='tab:blue', alpha=0.3, lw=1, label='loss')
  axes.plot(steps, smoothed, color='tab:blue', lw=2, label='smoothed')
  if losses.min() > 0:
    axes.set_yscale('log')
  axes.set_xlim(0, steps[-1])
  axes.set_xlabel('step')
  after = counted(int(steps[-1]), 'step')
  axes.set_title(f'{name}: loss {smoothed[-1]:.4g} after {after}')
  axes.grid(True, which='both', alpha=0.2)
  axes.legend(frameon=False)
  png = io.BytesIO()
  figure.savefig(png, format='png')
  return png.getvalue()


def smooth(losses: np.ndarray) -> np.ndarray:
  """The mean over a centred window of 5 % of the curve, of 5 values or more.

  Centred, so that the curve does not lag behind the loss. Where the window
  would leave the curve, the least-squares line through the last full window,
  within the range of its values: the last point is no single raw value.
  """
  count = len(losses)
  half = min(max(count // 40, 2), (count - 1) // 2)
  size = 2 * half + 1
  sums = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
  means = (sums[size:] - sums[:-size]) / size
  first = _line(losses[:size])[:half]
  last = _line(losses[-size:])[half + 1 :]
  return np.concatenate([first, means, last])


def _line(values):
  """The least-squares line at each of the values, clipped to their range."""
  at = np.arange(len(values)) - (len(values) - 1) / 2
  slope = (at @ values) / max(at @ at, 1)
  return np.clip(values.mean() + slope * at, values.min(), values.max())


def save_samples(workdir: epath.Path, step: int, image: Image.Image) -> None:
  """Writes pictures/step_XXXXXX.png."""
  png = io.BytesIO()
  image.save(png, format='PNG')
  write_atomically(
    workdir / 'pictures' / f'step_{step:06d}.png', png.getvalue()
  )
