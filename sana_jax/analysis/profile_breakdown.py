"""Breakdown of a profiled step's time by kind of operation.

A trace has the times of operations, the compiled program their kinds. Each
moment counts once, for the first of KINDS that runs then, so that copies and
collectives behind matmuls cost nothing; when nothing runs, it is `idle`. Time
beyond the model FLOPs at the device's peak is lost:

    lost(kind) = seconds(kind) - ideal seconds, where the kind computes them

which sums to (1 - MFU) of the step. jax.profiler reads traces without
TensorFlow.
"""

import bisect
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import NamedTuple

import jax

from sana_jax.analysis import collectives, hlo

# Most useful first. AGAIN is recomputation by remat.
PRODUCTS, CONVOLUTIONS, KERNELS = 'products', 'convolutions', 'kernels'
AGAIN, ELEMENTWISE = 'computed again', 'elementwise'
COLLECTIVES, COPIES, IDLE = 'collectives', 'copies', 'idle'
_USEFUL = (PRODUCTS, CONVOLUTIONS, KERNELS)
KINDS = (*_USEFUL, AGAIN, ELEMENTWISE, COLLECTIVES, COPIES)

_CALLS = {'while', 'call', 'conditional', 'async-start', 'async-done'}
# Ends of asynchronous collectives.
_ENDS = tuple(f'{kind}-done' for kind in collectives.KINDS)
_MOVES = re.compile(
  'copy(-start|-done)?|transpose|reshape|reverse|bitcast|convert|broadcast|pad|'
  '(dynamic-)?slice|dynamic-update-slice|gather|concatenate|iota|constant|'
  'parameter|tuple|get-tuple-element'
)
# Patterns of library functions and kernels, for operations without a label.
_LIBRARY = (
  (re.compile('mosaic|tpu_custom_call', re.I), KERNELS),
  (re.compile('gemm|matmul|cutlass|nvjet|cublas', re.I), PRODUCTS),
  (re.compile('conv(?!ert)|cudnn', re.I), CONVOLUTIONS),
  (re.compile('nccl', re.I), COLLECTIVES),
  (re.compile('memcpy|memset', re.I), COPIES),
)


class Operation(NamedTuple):
  """Kind of an instruction; `where` is its source in the code."""

  kind: str | None  # None: it calls others.
  where: str


class Event(NamedTuple):
  """Interval in which an operation ran on one device."""

  start: float  # Nanoseconds.
  end: float
  name: str


@dataclasses.dataclass(frozen=True)
class Time:
  """Time of a kind of operation in a step, on one device.

  Attributes:
    lost: seconds beyond the model FLOPs at the device's peak.
    most: longest operation of the kind; `share` is its part.
  """

  kind: str
  seconds: float
  lost: float
  most: str = ''
  share: float = 0.0


def operations(text: str) -> dict[str, Operation]:
  """Operations of a compiled program, by instruction name."""
  module = hlo.parse(text)
  return {x.name: _operation(module, x) for x in module.instructions()}


def _label(x):
  """Opcode; for a call into a library with its name."""
  if x.opcode != 'custom-call':
    return x.opcode
  target = re.search(r'custom_call_target="([^"]*)"', x.attributes)
  return f'custom-call {target[1] if target else ""}'


def _operation(module, x):
  path = re.search(r'op_name="([^"]*)"', x.attributes)
  path = path[1] if path else ''
  parts = module.inside(x) if x.opcode == 'fusion' else [x]
  kind = _kind(x, {_label(i) for i in parts})
  if 'rematted_computation' in path and kind in (*_USEFUL, ELEMENTWISE):
    kind = AGAIN
  return Operation(kind, '/'.join(path.split('/')[-4:]) or x.name)


def _kind(x, within):
  if x.opcode in _CALLS:
    return None
  if 'dot' in within:
    return PRODUCTS
  if 'convolution' in within:
    return CONVOLUTIONS
  if collectives.kind_of(x) or x.opcode.endswith(_ENDS):
    return COLLECTIVES
  for label in within:
    if label.startswith('custom-call'):
      return kind_by_name(label)
  return COPIES if all(map(_MOVES.fullmatch, within)) else ELEMENTWISE


def kind_by_name(name: str) -> str:
  """Kind of a library function, by its name."""
  return next(
    (kind for pattern, kind in _LIBRARY if pattern.search(name)), ELEMENTWISE
  )


def events(folder: pathlib.Path, module: str) -> list[Event]:
  """Events of a program on its first device, from a trace's folder."""
  (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
  trace = jax.profiler.ProfileData.from_file(str(path))
  planes = {p.name: p for p in trace.planes}
  devices = sorted(x for x in planes if re.match(r'/device:[GT]PU:\d+$', x))
  plane = planes[devices[0] if devices else '/host:CPU']
  return [
    e for line in plane.lines for e in _of_line(line, module, bool(devices))
  ]


def _of_line(line, module, is_device):
  """Events of a line; a device's include unlabelled ones, such as copies."""
  if is_device and not line.name.startswith(('Stream', 'XLA Ops')):
    return  # A summary of other lines.
  for e in line.events:
    stats = dict(e.stats)
    if stats.get('hlo_module', module if is_device else None) != module:
      continue
    if not is_device and stats.get('device_ordinal', 0):
      continue
    name = str(stats.get('hlo_op', e.name)).partition(' = ')[0].lstrip('%')
    yield Event(e.start_ns, e.start_ns + e.duration_ns, name)


def seconds(
  found: Iterable[Event], known: Mapping[str, Operation]
) -> tuple[dict[str, float], dict[str, collections.Counter]]:
  """Seconds by kind, with `idle`; and for each kind by source in the code."""
  labelled = []
  for e in found:
    op = known.get(e.name) or Operation(kind_by_name(e.name), e.name)
    if op.kind is not None and e.end > e.start:
      labelled.append((e.start, e.end, KINDS.index(op.kind), op.where))
  times = dict.fromkeys((*KINDS, IDLE), 0.0)
  places = collections.defaultdict(collections.Counter)
  for start, end, rank, where in _once(labelled):
    kind = IDLE if rank is None else KINDS[rank]
    times[kind] += (end - start) / 1e9
    places[kind][where] += (end - start) / 1e9
  return times, places


def _once(labelled):
  """Yields disjoint intervals, each with the first kind that runs in it."""
  changes = sorted(
    [(x[0], 1, x) for x in labelled] + [(x[1], 0, x) for x in labelled]
  )
  running, before = [], None
  for now, begins, x in changes:
    if before is not None and now > before:
      rank, where = running[0][:2] if running else (None, '')
      yield before, now, rank, where
    key = (x[2], x[3], x[0], x[1])
    if begins:
      bisect.insort(running, key)
    else:
      running.remove(key)
    before = now


def accounted(
  times: Mapping[str, float],
  places: Mapping[str, collections.Counter],
  steps: int,
  ideal: float,
) -> list[Time]:
  """Time of each kind in a step, largest loss first.

  `ideal`: seconds of the step's model FLOPs at the device's peak.
  """
  out = []
  for kind in (*KINDS, IDLE):
    taken = times[kind] / steps
    useful = min(taken, ideal) if kind in _USEFUL else 0.0
    ideal -= useful
    if taken:
      ((most, longest),) = places[kind].most_common(1) or [('', 0.0)]
      share = longest / times[kind]
      out.append(Time(kind, taken, taken - useful, most, share))
  return sorted(out, key=lambda t: -t.lost)


def largest(times: Sequence[Time]) -> list[str]:
  """Lines of the three largest losses."""
  total = sum(t.seconds for t in times)
  return [
    f'{t.kind}{" below the peak" * (t.kind in _USEFUL)}: '
    f'{t.lost / total:.0%} of the step'
    + (f', {t.share:.0%} of it in {t.most}' if t.most else '')
    for t in times[:3]
  ]
