"""Golden plans: shardings, memory and collectives as text, compared by diff.

  sana-jax plan --config ... --topology ... --shardings
  sana-jax plan --golden tests/golden/plans

Shardings and state bytes follow from the config, layout and mesh; bytes per
device and collectives are of the compiled program of one layout, the fully
sharded one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import re

import jax
from jax.sharding import AbstractMesh

from sana_jax.errors import UserError
from sana_jax.tools.plan import steps
from sana_jax.tools.plan.candidates import Candidate
from sana_jax.tools.plan.compiling import of_device
from sana_jax.tools.plan.report import Plan
from sana_jax.tools.plan.tables import mesh_text
from sana_jax.tools.report import listed
from sana_jax.training import state as states
from sana_jax.typing import PyTree

MIB = 2**20
_COMPILED = 'Compiled: '


@dataclasses.dataclass(frozen=True)
class Golden:
  """Contents of a golden file.

  Attributes:
    shardings: text of all layouts, made without a compiler.
    compiled: text of one layout's program; '' if absent.
  """

  config: str
  topology: str
  shardings: str
  compiled: str = ''

  @property
  def name(self) -> str:
    """File name."""
    return f'{self.config}-{re.sub("[:@]", "-", self.topology)}.txt'

  def __str__(self) -> str:
    head = f'{self.config} on {self.topology}\n'
    return '\n'.join(filter(None, [head, self.compiled, self.shardings]))


def read(path: pathlib.Path) -> Golden:
  """Reads a golden file; raises UserError if it is invalid."""
  head, *parts = path.read_text(encoding='utf-8').split('\n\n')
  found = re.fullmatch(r'(\S+) on (\S+)', head)
  if found is None or not 1 <= len(parts) <= 2:
    raise UserError(
      f'{path} is no golden plan; its first line would be '
      "'CONFIG on TOPOLOGY'.",
      value=path,
      allowed='CONFIG on TOPOLOGY',
    )
  compiled = parts[0] + '\n' if parts[0].startswith(_COMPILED) else ''
  return Golden(*found.groups(), parts[-1], compiled)


def program(one: Golden, versions: Mapping[str, str]) -> str:
  """Digest of the program, if these compilers made the plan; or ''."""
  head, *_ = one.compiled.splitlines() or ['']
  found = re.search(r', (jax .*), program (\w+)$', head)
  made = found and [x.split() for x in found[1].split(', ')]
  return found[2] if made and all(versions.get(x) == n for x, n in made) else ''


def chosen(found: Sequence[Candidate]) -> Candidate | None:
  """The valid fully sharded candidate, or None."""
  is_whole = lambda c: not c.problem and re.fullmatch(r'fsdp(_\d+)?', c.name)
  return next(filter(is_whole, found), None)


def compiled(plan: Plan) -> str:
  """Text of a program: bytes per device and collectives."""
  named = ('jax',) if plan.pod.chip.is_gpu else ('jax', 'libtpu')
  versions = listed({x: plan.versions[x] for x in named if x in plan.versions})
  program = f', program {plan.program}' if plan.program else ''
  memory = ', '.join(
    f'{kind} {size / MIB:,.1f}' for kind, size in plan.memory.items() if size
  )
  fits = '' if plan.fits else ', too large'
  lines = [
    f'{_COMPILED}{plan.layout}, {mesh_text(plan.mesh)}, {plan.per_chip:g} '
    f'images a chip, {versions}{program}',
    f'  MiB of a device: {memory}; {plan.needed / MIB:,.1f} of '
    f'{plan.usable / MIB:,.1f}{fits}',
  ]
  sums = {}
  for c in plan.collectives:
    key = (c.kind, c.axes, c.link)
    calls, size = sums.get(key, (0, 0.0))
    sums[key] = calls + c.count, size + c.bytes
  lines += [
    f'  {kind} over {axes} by {link}: {calls} calls, {size / 1e6:,.1f} MB'
    for (kind, axes, link), (calls, size) in sorted(sums.items())
  ]
  return '\n'.join(lines) + '\n'


def text(candidates: Sequence[Candidate]) -> str:
  """Text of each layout: mesh, state's MiB per device and all shardings."""
  lines = []
  for one in candidates:
    lines.append(f'{one.name}: {mesh_text(one.config.mesh.to_dict())}')
    lines += [f'  {one.problem}'] if one.problem else _state(one)
  return '\n'.join(lines) + '\n'


def _state(one):
  config = one.config
  sizes = {a: n for a, n in config.mesh.items() if a != 'slices'}
  sizes['data'] *= config.mesh.slices
  mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
  planned = steps.plan(config, mesh)
  params = states.merge(planned.state.params, planned.state.extra, planned.base)
  moments = [p.opt_state for p in planned.state.players.values()]
  return [
    f'  parameters {of_device(params) / MIB:.1f} MiB, optimizer '
    f'{of_device(moments) / MIB:.1f} MiB of a device',
    *_parameters(params),
  ]


def _parameters(params: PyTree) -> list[str]:
  """Lines such as 'path 20x2240x2240: 20x35x2240' (global: per device)."""
  size = lambda shape: 'x'.join(map(str, shape))
  lines = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    part = leaf.sharding.shard_shape(leaf.shape)
    if part != leaf.shape:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      lines.append(f'  {name} {size(leaf.shape)}: {size(part)}')
  return lines
