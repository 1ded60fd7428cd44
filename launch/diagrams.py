"""Diagrams of the docs: meshes, the data path, and resuming.

They have no figures of their own: a mesh is that of a row of winners.json.
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from sana_jax.tools import plots

_BLUE, _ORANGE, _GREEN, _GREY = '#dbe7f3', '#fde3c8', '#d9efd5', '#e8e8e8'
_DEVICES = plots.COLOURS[:4]
# By axis: what a batch, a weight and an image's tokens are split along ('rows',
# 'columns', 'all' for a copy on each device, 'one' for a single device).
_AXES = {
  'data': (
    ('rows', 'all', 'one'),
    'replicas of the model\nall-reduce of gradients',
  ),
  'fsdp': (
    ('rows', 'rows', 'one'),
    'shards of weights, EMA, optimizer\n'
    'all-gather of weights, block by block;\nreduce-scatter of gradients',
  ),
  'tensor': (
    ('all', 'columns', 'columns'),
    'heads and hidden channels\nall-reduce of activations',
  ),
  'sequence': (
    ('all', 'all', 'rows'),
    'rows of the latents\nexchange of edge rows;\n'
    "all-reduce of the attention's state",
  ),
}
_HEADS = (
  'images\nof a batch',
  'a weight:\ninputs x outputs',
  'an image:\ntokens x channels',
)


def mesh_axes() -> bytes:
  """PNG of what each mesh axis splits over 4 devices."""
  drawn, axes = _canvas(9, 5.2, 18, 10.4)
  for column, head in enumerate(_HEADS):
    _text(axes, 4.2 + 2.8 * column, 0.5, head, weight='bold')
  _text(axes, 14.8, 0.5, 'communication', weight='bold')
  for row, (name, (splits, about)) in enumerate(_AXES.items()):
    top = 1.3 + 2.2 * row
    _text(axes, 1.4, top + 0.85, f'{name}=4', size=11, family='monospace')
    for column, split in enumerate(splits):
      _array(axes, 3.3 + 2.8 * column, top, split)
    _text(axes, 14.8, top + 0.85, about)
  for device, colour in enumerate(_DEVICES):
    left = 1.9 + 2.6 * device
    axes.add_patch(Rectangle((left, 9.85), 0.4, 0.4, fc=colour))
    _text(axes, left + 1.3, 10.05, f'device {device}')
  axes.add_patch(Rectangle((12.3, 9.85), 0.4, 0.4, fc=_GREY, ec='#999'))
  _text(axes, 15, 10.05, 'the same on all of them')
  return plots.png(drawn)


def hosts(row: Mapping[str, str]) -> bytes:
  """PNG of a layout on hosts of 8 GPUs, from a row of winners.json."""
  mesh = dict(part.split('=') for part in row['mesh'].split())
  if set(mesh) != {'data', 'fsdp'} or mesh['fsdp'] != '8':
    raise ValueError(f'{row["mesh"]} is not data=N fsdp=8.')
  count = int(mesh['data'])
  drawn, axes = _canvas(9, 3.4, 4.6 * count, 6.9)
  for host in range(count):
    left = 0.2 + 4.6 * host
    _box(axes, left, 0.9, 4.2, 3.9, '', _GREY)
    _text(axes, left + 2.1, 1.25, f'host {host}: data {host}', weight='bold')
    for gpu in range(8):
      x, y = left + 0.2 + gpu % 4, 1.7 + 1.0 * (gpu // 4)
      _box(axes, x, y, 0.8, 0.75, f'fsdp\n{gpu}', _BLUE, size=7)
    note = 'NVLink: all-gather of weights,\nreduce-scatter of gradients'
    _text(axes, left + 2.1, 4.2, note, size=8)
  middle = 2.3 * count
  _box(axes, 0.2, 5.2, 4.6 * count - 0.4, 0.75, '', _ORANGE)
  note = 'network: all-reduce of the gradients of each shard'
  _text(axes, middle, 5.57, note)
  _text(axes, middle, 0.4, f'{row["config"]} on {row["pod"]}: {row["mesh"]}')
  note = (
    f'{row["images/chip"]} images and {row["GiB"]} of {row["of"]} GiB a GPU; '
    f'predicted {row["img/s"]} images/s, MFU {row["MFU"]} (compiled, not run)'
  )
  _text(axes, middle, 6.55, note)
  return plots.png(drawn)


def data_path() -> bytes:
  """PNG of the way from files to devices, and of the state that is saved."""
  drawn, axes = _canvas(9, 4.1, 18, 8.2)
  stages = (
    ('files', 'tars, Parquet,\nArrayRecord,\nfolders, TFDS', _BLUE),
    ('records', 'index, filters\nby size and\nCLIP score', _BLUE),
    ('order', 'records and\nbucket of step N:\na function of\nthe seed', _GREY),
    ('batch', 'one aspect ratio;\nown rows of each\nprocess', _GREY),
    ('threads', 'read, decode,\ncrop; bad records\nare replaced', _GREY),
    ('devices', 'rows over\ndata x fsdp', _GREEN),
  )
  for i, (name, about, colour) in enumerate(stages):
    _box(axes, 0.2 + 3.0 * i, 0.4, 2.5, 2.9, '', colour)
    _text(axes, 1.45 + 3.0 * i, 0.85, name, weight='bold')
    _text(axes, 1.45 + 3.0 * i, 2.15, about, size=8)
    if i:
      _arrow(axes, (3.0 * i - 0.3, 1.85), (3.0 * i + 0.2, 1.85))
  _box(axes, 0.2, 5.0, 5.5, 2.6, '', _BLUE)
  _text(axes, 2.95, 5.45, 'cache (sana-jax data cache)', weight='bold')
  note = 'latents and text embeddings with checksums;\nreplaces reading images'
  _text(axes, 2.95, 6.55, note, size=8)
  _arrow(axes, (4.45, 3.3), (4.45, 5.0))
  _arrow(axes, (5.7, 6.0), (13.2, 3.35))
  _box(axes, 9.2, 5.0, 8.5, 2.6, '', _GREEN)
  _text(axes, 13.45, 5.45, 'checkpoint', weight='bold')
  note = (
    'number of batches read: the only state of the data;\n'
    'trainable parameters, EMA, optimizer states'
  )
  _text(axes, 13.45, 6.55, note, size=8)
  _arrow(axes, (16.45, 3.3), (16.45, 5.0))
  _text(
    axes,
    9,
    7.95,
    'blue: on disk   grey: repeated from the seed   green: state',
    size=8,
  )
  return plots.png(drawn)


def resuming() -> bytes:
  """PNG of a killed and a whole run, step by step."""
  drawn, axes = _canvas(9, 2.9, 18, 5.8)
  for top, name in ((0.6, 'uninterrupted'), (2.6, 'killed'), (4.2, 'resumed')):
    _text(axes, 1.4, top + 0.3, name, weight='bold')
  _steps(axes, 0.6, range(9), _BLUE)
  _steps(axes, 2.6, range(6), _BLUE)
  _steps(axes, 4.2, range(4, 9), _GREEN)
  for top, marks in ((0.6, (3, 7)), (2.6, (3,)), (4.2, (7,))):
    for step in marks:
      _text(axes, 4.1 + 1.5 * step, top + 0.95, 'checkpoint', size=7)
  _text(axes, 13.7, 2.9, 'SIGKILL', color='#c0392b', weight='bold')
  _arrow(axes, (9.32, 3.2), (9.6, 4.2))
  _text(axes, 6, 4.5, 'restored and verified', size=8)
  _text(axes, 9.4, 5.5, 'the same steps, data order, random numbers and bits')
  return plots.png(drawn)


def _steps(axes, top, steps, colour):
  for step in steps:
    left = 3.4 + 1.5 * step
    _box(axes, left, top, 1.35, 0.6, f'step {step + 1}', colour, size=7)


def _array(axes, left, top, split):
  """An array in the colours of the devices that hold its parts."""
  if split in ('all', 'one'):
    colour = _GREY if split == 'all' else _DEVICES[0]
    axes.add_patch(Rectangle((left, top), 1.8, 1.7, fc=colour, ec='#999'))
    return
  wide, high = (1.8, 1.7 / 4) if split == 'rows' else (1.8 / 4, 1.7)
  for i, colour in enumerate(_DEVICES):
    x, y = (0, i * high) if split == 'rows' else (i * wide, 0)
    part = Rectangle((left + x, top + y), wide, high, fc=colour, ec='white')
    axes.add_patch(part)


def _canvas(width, height, right, bottom):
  """A figure in inches, and its axes in units of the drawing, y downwards."""
  drawn = plots.figure(float(width), height)
  axes = drawn.add_subplot()
  axes.set_xlim(0, right)
  axes.set_ylim(bottom, 0)
  axes.set_axis_off()
  return drawn, axes


def _box(axes: Axes, left, top, width, height, text, colour, size=9):
  style = 'round,pad=0,rounding_size=0.12'
  place = (left, top)
  axes.add_patch(
    FancyBboxPatch(place, width, height, style, fc=colour, ec='#999')
  )
  _text(axes, left + width / 2, top + height / 2, text, size=size)


def _text(axes: Axes, x, y, text, size=9, **style):
  axes.text(x, y, text, ha='center', va='center', fontsize=size, **style)


def _arrow(axes: Axes, start, end):
  style = dict(arrowstyle='-|>', color='#555', lw=1.2)
  axes.annotate('', end, start, arrowprops=style)
