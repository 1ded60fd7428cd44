"""Compiles one program for a topology and reads the compiler's output."""

import collections
import hashlib
import math
import pathlib
import re
import time

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sana_jax import kernels
from sana_jax.analysis import buffers, chips, collectives, hlo, topologies, work
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.plan import cache, steps
from sana_jax.tools.plan.report import Plan

_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def compile_plan(
  config: ConfigDict,
  topology: str,
  layout: str,
  mode: str,
  folder: pathlib.Path,
  known: str = '',
) -> Plan | None:
  """Plan of a compiled program; XLA's dump goes to `folder`.

  A program that is too large gives a Plan that does not fit. A program with the
  digest `known` is not compiled and gives None. Raises UserError for an invalid
  mesh or batch.
  """
  platform = topologies.platform(topology)
  mesh = make_mesh(config.mesh.to_dict(), topologies.devices(topology))
  start = time.perf_counter()
  chosen = {op: name for op, name in config.kernels.items() if name}
  with kernels.platform(platform), kernels.prefer(**chosen):
    program = steps.make(config, mesh, mode)
    with topologies.tracing_for(platform, mesh):
      lowered = program.lower()
    if (text := digest(lowered)) == known:
      return None
    compiled, report = _compile(lowered, mesh, platform, folder)
  seconds = time.perf_counter() - start
  expected = steps.run_flops(config, mode) / mesh.size
  found = (
    _whole(compiled, program, mesh, topology, folder, expected)
    if compiled
    else _too_large(report, program, folder)
  )
  return Plan(
    layout,
    topology,
    mode,
    dict(mesh.shape),
    config.batch_size,
    config.num_steps,
    usable=chips.parse(topology).chip.of_device().usable,
    compile_seconds=seconds,
    versions=cache.compilers(),
    model_flops=float(steps.model_flops(config, mode)),
    program=text,
    **found,
  )


def digest(lowered: jax.stages.Lowered) -> str:
  """Digest of a program's text, which has no places in the sources."""
  return hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]


def of_device(tree) -> int:
  """Bytes of a tree's arrays on one device, by their shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def argument_bytes(program: steps.Program) -> dict[str, int]:
  """Bytes of the arguments on one device, by kind."""
  return {name: of_device(tree) for name, tree in program.parts.items()}


def memory(
  compiled: jax.stages.Compiled, program: steps.Program
) -> dict[str, int]:
  """Bytes of the program on one device, by kind."""
  found, parts = compiled.memory_analysis(), argument_bytes(program)
  return parts | {
    'padding': max(0, found.argument_size_in_bytes - sum(parts.values())),
    'results': max(0, found.output_size_in_bytes - found.alias_size_in_bytes),
    'temporaries': found.temp_size_in_bytes,
    'code': found.generated_code_size_in_bytes,
  }


def places(mesh: Mesh, topology: str) -> list[collectives.Place]:
  """Positions of a mesh's devices, in its order."""
  found = chips.parse(topology)

  def place(d):
    if found.chip.is_gpu:
      # JAX numbers the devices of a described topology host by host.
      return collectives.Place((), d.id // found.shape[2])
    return collectives.Place(tuple(d.coords), getattr(d, 'slice_index', 0))

  return [place(d) for d in mesh.devices.flat]


def _compile(lowered, mesh, platform, folder):
  """(program, '') or (None, the compiler's report of its size)."""
  try:
    return topologies.compile_for(
      platform, mesh, lambda: lowered, xla_dump_to=str(folder)
    ), ''
  except topologies.TooLargeError as e:
    return None, e.report
  except jax.errors.JaxRuntimeError as e:
    raise UserError(
      f'XLA does not compile this: {str(e).strip().splitlines()[0]}'
    ) from e


def _whole(compiled, program, mesh, topology, folder, expected):
  """Fields of the Plan of a program; `expected` are FLOPs per device."""
  module = hlo.parse(compiled.as_text())
  shape = chips.parse(topology)
  arranged = buffers.read(folder)
  calls = _kernels(module)
  done = work.of_program(module, expected if calls else 0.0)
  return {
    'memory': memory(compiled, program),
    'work': done,
    'kernels': calls,
    'hardware_flops': sum(w.flops for w in done) * mesh.size,
    'collectives': collectives.find(
      module,
      dict(mesh.shape),
      places(mesh, topology),
      () if shape.chip.is_gpu else shape.shape,
    ),
    'temporaries': arranged.largest if arranged else [],
    'recomputed': sum('.remat' in x.name for x in module.instructions()),
  }


def _too_large(report, program, folder):
  """Fields of the Plan of a program that is too large to compile."""
  arranged, parts = buffers.read(folder), argument_bytes(program)
  if arranged:
    total = arranged.total
  else:
    found = re.search(
      r'Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds', report
    )
    number, unit = [g for g in found.groups() if g] if found else (0, 'G')
    total = float(number) * _UNITS[unit]
  rest = max(0, int(total) - sum(parts.values()))
  return {
    'memory': parts | {'temporaries': rest},
    'temporaries': arranged.largest if arranged else [],
  }


def _kernels(module):
  """Calls of each of this project's kernels in a step."""
  found = collections.Counter()
  for step in module.steps():
    if name := work.kernel_name(step.instruction):
      found[name] += step.times
  return dict(found)
