"""Compute time of one device: roofline of each operation.

An operation takes the larger of its FLOPs at the chip's peak and its memory
traffic at the memory's rate. On-chip memory (TPU's VMEM) is free.
"""

from collections import Counter
from collections.abc import Sequence
import functools
import math
import re
from typing import NamedTuple

import numpy as np

from sana_jax.analysis import hlo
from sana_jax.analysis.chips import Chip

_KEPT = 300  # Operations listed separately; the rest are merged.
# Operations without memory traffic.
_FREE = re.compile(
  'parameter|constant|iota|bitcast|tuple|get-tuple-element|get-dimension-size|'
  'partition-id|replica-id|opt-barrier|call|domain|after-all|add-dependency|'
  '.*-done|.*-update'
)
_KERNEL = re.compile(r'custom_call_target="(?:tpu_custom_call|\w*mosaic_gpu)')
# Operations that only change an array's form; within a fusion, their operands
# are read only where their results are used.
_THROUGH = ('bitcast', 'copy', 'convert', 'reshape', 'transpose')
_SLICES = ('dynamic-slice', 'slice', 'gather')


class Work(NamedTuple):
  """FLOPs and bytes of an operation over a step, all its runs together."""

  flops: float
  bytes: float


def of_program(module: hlo.Module, expected: float = 0.0) -> list[Work]:
  """Operations of a step on one device, the small ones merged.

  FLOPs of kernels are unknown: those missing from `expected` are divided
  among them by bytes moved.
  """
  found, kernels = [], []
  for step in module.steps():
    x, local = step.instruction, module.computations[step.computation]
    if _FREE.fullmatch(x.opcode):
      continue
    (kernels if is_kernel(x) else found).append(
      Work(
        float(step.times * flops(module, x, local)),
        float(step.times * moved(module, x, local)),
      )
    )
  missing = max(0.0, expected - sum(w.flops for w in found))
  total = sum(w.bytes for w in kernels)
  found += [
    Work(missing * w.bytes / total if total else 0.0, w.bytes) for w in kernels
  ]
  found.sort(key=lambda w: w.bytes + w.flops / 200, reverse=True)
  if rest := found[_KEPT:]:
    found[_KEPT:] = [Work(*map(sum, zip(*rest)))]
  return found


def is_kernel(x: hlo.Instruction) -> bool:
  """Whether it is a Pallas kernel."""
  return x.opcode == 'custom-call' and bool(_KERNEL.search(x.attributes))


def kernel_name(x: hlo.Instruction) -> str:
  """Name of a Pallas kernel; '?' if unnamed, '' for other instructions."""
  name = re.search(r'op_name="[^"]*?/(\w+)(?:/\w+)?"', x.attributes)
  return (name[1] if name else '?') if is_kernel(x) else ''


def kernel_names(module: hlo.Module) -> dict[str, int]:
  """Calls of each Pallas kernel in a program; those in a loop count once."""
  return dict(Counter(filter(None, map(kernel_name, module.instructions()))))


def seconds(work: Sequence[Work], chip: Chip) -> float:
  """Seconds of all operations in sequence."""
  return sum(
    max(w.flops / chip.flops, w.bytes / chip.memory_rate) for w in work
  )


def flops(module, x: hlo.Instruction, local) -> int:
  """FLOPs of an instruction's dots and convolutions; 0 for kernels."""
  if x.opcode == 'fusion':
    inner = module.computations.get(x.called(), {})
    return sum(flops(module, i, inner) for i in inner.values())
  if x.opcode == 'dot':
    return 2 * _elements(x.shape) * _contracted(x, local)
  if x.opcode == 'convolution':
    return 2 * _convolved(x, local)
  if x.opcode == 'custom-call' and 'gemm' in x.attributes:
    # cuBLAS's second output is scratch memory.
    out = hlo.arrays(x.shape)[0]
    return 2 * math.prod(out.sizes) * _contracted(x, local)
  return 0


def moved(module, x: hlo.Instruction, local) -> int:
  """Bytes that an instruction reads from and writes to main memory.

  Only the slice of a sliced or updated array counts.
  """
  read = [local[o].shape for o in x.operands if o in local]
  written = _main(x.shape)
  if x.opcode == 'fusion':
    inner = module.computations.get(x.called(), {})
    return sum(_read_by_parts(module, inner, read)) + _written(inner, x.shape)
  if x.opcode in _SLICES:
    return 2 * written
  if x.opcode == 'dynamic-update-slice':
    return 2 * _main(read[1]) if len(read) > 1 else written
  if x.opcode.endswith('-start'):  # A copy: its shape has both ends.
    return sum(map(_main, read)) if 'copy' in x.opcode else 0
  return sum(map(_main, read)) + written


def _read_by_parts(module, inner, shapes):
  """Yields the bytes read of each operand of a fusion."""
  for number, shape in enumerate(shapes):
    whole, uses = _main(shape), list(_uses(module, inner, number))
    kinds = {user.opcode if user else 'result' for user, _ in uses}
    if kinds and kinds <= set(_SLICES):
      whole = min(whole, sum(hlo.size(user.shape) for user, _ in uses))
    elif kinds == {'dynamic-update-slice'} and not any(at for _, at in uses):
      whole = 0  # Only the update, which is counted as written.
    yield whole


def _uses(module, inner, number):
  """Yields (user, operand index) of each innermost use of an argument.

  The user is None if the fusion returns the argument.
  """
  reached = [
    i
    for i in inner.values()
    if i.opcode == 'parameter' and i.arguments == str(number)
  ]
  while reached:
    x = reached.pop()
    if x.is_root:
      yield None, 0
    for user in (i for i in inner.values() if x.name in i.operands):
      at = user.operands.index(x.name)
      if user.opcode in _THROUGH:
        reached.append(user)
      elif user.opcode == 'fusion':
        within = module.computations.get(user.called(), {})
        found = list(_uses(module, within, at))
        reached += [user] * ((None, 0) in found)
        yield from (use for use in found if use[0])
      else:
        yield user, at


def _written(inner, shape):
  """Bytes that a fusion writes: only the slice of an in-place update.

  Results in on-chip memory count as zero.
  """
  root = next((i for i in inner.values() if i.is_root), None)
  outs = hlo.arrays(shape)
  ends = [root.name] if root else []
  if root and root.opcode == 'tuple':
    ends = root.operands
  if len(ends) != len(outs):
    return _main(shape)
  total = 0
  for name, out in zip(ends, outs):
    while name in inner and inner[name].opcode in _THROUGH:
      name = inner[name].operands[0]
    end = inner.get(name)
    if end and end.opcode == 'dynamic-update-slice':
      total += hlo.size(inner[end.operands[1]].shape)
    elif not out.space:
      total += out.bytes
  return total


def _main(shape):
  """Bytes of a shape's arrays in main memory."""
  return sum(a.bytes for a in hlo.arrays(shape) if not a.space)


def _elements(shape):
  return sum(math.prod(a.sizes) for a in hlo.arrays(shape))


def _contracted(x, local):
  dims = re.search(
    r'lhs_contracting_di(?:ms=\{|mensions":\[)([\d,"]*)', x.attributes
  )
  left = hlo.arrays(local[x.operands[0]].shape)[0].sizes
  axes = re.findall(r'\d+', dims[1]) if dims else []
  return math.prod(left[int(i)] for i in axes)


def _convolved(x, local):
  """Multiplications of a convolution, without those of padding.

  XLA writes batched matmuls as convolutions with mostly padding.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', x.attributes)
  left, kernel = (hlo.arrays(local[o].shape)[0].sizes for o in x.operands[:2])
  out = hlo.arrays(x.shape)[0].sizes
  left, kernel, out = (
    dict(zip(letters, sizes))
    for letters, sizes in zip(labels.groups(), (left, kernel, out))
  )
  (groups,) = _option(x, 'batch_group_count', 1)
  products = left['b'] // groups * out['f'] * kernel['i']
  axes = [a for a in out if a.isdigit()]
  defaults = {'stride': 1, 'pad': 0, 'lhs_dilate': 1, 'rhs_dilate': 1}
  window = [_option(x, key, n, len(axes)) for key, n in defaults.items()]
  for axis in axes:
    here = (values[int(axis)] for values in window)
    products *= _pairs(left[axis], kernel[axis], out[axis], *here)
  return products


def _option(x, key, default, count=1):
  """Numbers of an attribute such as '2x2'; the first ones of '1_0x1_1'."""
  found = re.search(rf'\b{key}=([\w-]+)', x.attributes)
  if not found:
    return [default] * count
  return [int(part.split('_')[0]) for part in found[1].split('x')]


@functools.cache
def _pairs(size, window, out, stride, pad, spread, kernel_spread):
  """Count of (output, kernel) positions along an axis that are not padding."""
  first, step = np.arange(out)[:, None], np.arange(window)[None]
  at = first * stride - pad + step * kernel_spread
  inside = (at >= 0) & (at <= (size - 1) * spread) & (at % spread == 0)
  return int(inside.sum())
