"""Device meshes of up to four named axes, and the batch rows of each process.

The axes are `data` (replicas of the model), `fsdp` (shards of the batch and the
parameters), `tensor` (shards of the width) and `sequence` (shards of the
tokens). They are `AxisType.Auto`, which is set only here: `jax.make_mesh` would
make them Explicit, in which Linen's modules fail. `data` is outermost, so that
the axes with more traffic are on neighbouring chips; of several slices (or
hosts) connected by slow links, it alone crosses them.
"""

import collections
from collections.abc import Mapping, Sequence
import math

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jaxtyping import Int
import ml_collections
import numpy as np

from sana_jax.errors import did_you_mean, UserError
from sana_jax.printable import counted
from sana_jax.typing import Array, PyTree

AXES = ('data', 'fsdp', 'tensor', 'sequence')
BATCH_AXES = ('data', 'fsdp')


def make_mesh(
  shape: Mapping[str, int] | ml_collections.ConfigDict,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh of `devices`, by default all; one size may be -1.

  `slices` in `shape` is not an axis: that many slices hold equal meshes of the
  other sizes, concatenated along `data`. Raises UserError for an unknown axis
  and for sizes that do not fit.
  """
  devices = jax.devices() if devices is None else list(devices)
  shape = dict(shape)
  slices = shape.pop('slices', 1)
  if slices == 1:
    return _one(axis_sizes(shape, len(devices)), devices)
  groups = _slices(devices, slices)
  sizes = axis_sizes({'data': 1, **shape}, len(groups[0]))
  every = np.concatenate([_one(sizes, group).devices for group in groups])
  return Mesh(every, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def local_mesh() -> Mesh:
  """Mesh of one device of this process, for computations without the others."""
  return make_mesh({'data': 1}, jax.local_devices()[:1])


def to_host(x: Array | np.ndarray) -> np.ndarray:
  """Gathers an array to the host; if it spans processes, all must call it."""
  if (
    not isinstance(x, jax.Array)
    or x.is_fully_addressable
    or x.is_fully_replicated
  ):
    return np.asarray(x)
  return multihost_utils.process_allgather(x, tiled=True)


def _one(sizes, devices) -> Mesh:
  """A mesh of neighbouring devices, as far as the torus allows."""
  kinds = (AxisType.Auto,) * len(sizes)
  if len({getattr(d, 'slice_index', 0) for d in devices}) > 1:
    return Mesh(_across_slices(sizes, devices), tuple(sizes), axis_types=kinds)
  try:
    return jax.make_mesh(
      tuple(sizes.values()), tuple(sizes), devices=devices, axis_types=kinds
    )
  except NotImplementedError:  # Such as 2 x 64 on 4 x 4 x 8: it splits the 8.
    found = mesh_utils.create_device_mesh(
      tuple(sizes.values()), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(found, tuple(sizes), axis_types=kinds)


def _across_slices(sizes, devices):
  """Devices ordered by slice; to JAX each GPU host or NVLink domain is one."""
  if devices[0].platform == 'tpu':
    count = len({d.slice_index for d in devices})
    raise UserError(
      f'The {len(devices)} TPU chips lie in {count} slices and mesh.slices '
      f'is 1; set mesh.slices to {count}, or use --layout hybrid.',
      key='mesh.slices',
      value=1,
      allowed=(count,),
    )
  ordered = sorted(
    devices, key=lambda d: (d.slice_index, d.process_index, d.id)
  )
  return np.asarray(ordered).reshape(tuple(sizes.values()))


def batch_spec(mesh: Mesh) -> jax.P:
  """Spec that shards a leading batch axis over the data and fsdp axes."""
  axes = tuple(a for a in BATCH_AXES if a in mesh.shape)
  return jax.P(axes) if axes else jax.P()


def split_batch(mesh: Mesh, x: Array | np.ndarray) -> Array:
  """Places rows on the mesh, or all on each device if they do not divide."""
  ways = math.prod(mesh.shape.get(a, 1) for a in BATCH_AXES)
  spec = batch_spec(mesh) if x.shape[0] % ways == 0 else jax.P()
  return jax.device_put(x, NamedSharding(mesh, spec))


def check_batch(
  mesh: Mesh | AbstractMesh, batch_size: int, accumulate: int = 1
) -> None:
  """Raises UserError if the batch does not split evenly over the mesh.

  `accumulate` is its number of microbatches.
  """
  groups = math.prod(mesh.shape.get(a, 1) for a in BATCH_AXES)
  ways = groups * accumulate
  if batch_size < 1 or batch_size % ways:
    below = max(ways, batch_size // ways * ways)
    parts = f' x accumulate_steps={accumulate}' if accumulate > 1 else ''
    raise UserError(
      f'batch_size={batch_size} does not split over data x fsdp = {groups} '
      f'groups of devices{parts}; set batch_size to a multiple of {ways}, '
      f'such as {below}.',
      key='batch_size',
      value=batch_size,
      allowed=f'multiples of {ways}',
    )


def batch_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, 'rows']:
  """Rows of each batch on this process's devices, in order.

  Processes that differ only along tensor or sequence hold the same rows.
  Raises UserError if the batch does not split evenly over the mesh.
  """
  check_batch(mesh, batch_size)
  found = NamedSharding(mesh, batch_spec(mesh)).addressable_devices_indices_map(
    (batch_size,)
  )
  every = np.arange(batch_size)
  return np.unique(np.concatenate([every[index] for index in found.values()]))


def place_rows(
  batch: PyTree, rows: Int[np.ndarray, 'rows'], mesh: Mesh, batch_size: int
) -> PyTree:
  """Global arrays of `batch_size` rows from this process's `rows`."""
  sharding = NamedSharding(mesh, batch_spec(mesh))

  def place(x):
    def part(index):
      start, stop, _ = index[0].indices(batch_size)
      first = np.searchsorted(rows, start)
      return x[first : first + stop - start]

    return jax.make_array_from_callback(
      (batch_size, *x.shape[1:]), sharding, part
    )

  return jax.tree.map(place, batch)


def _slices(devices, count):
  """The devices in `count` equal groups: by slice, by host, or any on CPU."""
  for attribute in ('slice_index', 'process_index'):
    groups = collections.defaultdict(list)
    for device in devices:
      groups[getattr(device, attribute, 0)].append(device)
    if len(groups) == count and len({len(g) for g in groups.values()}) == 1:
      return list(groups.values())
  if devices[0].platform == 'cpu' and count > 0 and len(devices) % count == 0:
    return np.split(np.asarray(devices), count)
  slices = len({getattr(d, 'slice_index', 0) for d in devices})
  processes = len({d.process_index for d in devices})
  raise UserError(
    f'mesh.slices={count} does not fit: '
    f'the {counted(len(devices), "device lies", "devices lie")} in '
    f'{counted(slices, "slice")} of '
    f'{counted(processes, "process", "processes")}; set mesh.slices to one of '
    'these numbers, or to 1.',
    key='mesh.slices',
    value=count,
    allowed=(1, slices, processes),
  )


def axis_sizes(shape: Mapping[str, int], count: int) -> dict[str, int]:
  """The axes in their fixed order, with -1 replaced by the remaining size."""
  if unknown := sorted(set(shape) - set(AXES)):
    raise UserError(
      f'mesh has the axes {", ".join(unknown)}'
      f'{did_you_mean(unknown[0], AXES)}; allowed are {", ".join(AXES)}.',
      key='mesh',
      value=unknown[0],
      allowed=AXES,
    )
  sizes = {a: shape[a] for a in AXES if a in shape} or {'data': -1}
  text = ', '.join(f'{a}={n}' for a, n in sizes.items())
  if (bad := [a for a, n in sizes.items() if n < 1 and n != -1]) or (
    list(sizes.values()).count(-1) > 1
  ):
    raise UserError(
      f'mesh is {text}; sizes are positive and at most one is -1 (all '
      f'devices that are left): change mesh.{(bad or list(sizes))[0]}.',
      key=f'mesh.{(bad or list(sizes))[0]}',
      value=sizes,
    )
  fixed = math.prod(n for n in sizes.values() if n != -1)
  if count % fixed or (-1 not in sizes.values() and fixed != count):
    rule = 'must divide' if -1 in sizes.values() else 'must be'
    raise UserError(
      f'mesh is {text}, a product of {fixed} that {rule} the number of '
      f'devices, {count}: change mesh, for instance to data=-1 alone.',
      key='mesh',
      value=sizes,
      allowed=f'{rule} {count}',
    )
  return {a: count // fixed if n == -1 else n for a, n in sizes.items()}
