"""Steps are timed alternately, analysed as in plans, and fail alone."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import ceilings, flops
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import step, timing
from sana_jax.tools.bench.chip import train_step
from sana_jax.tools.bench.chip.sizes import TINY
from sana_jax.tools.bench.step import Record, Variant
from sana_jax.tools.plan import steps


@pytest.fixture(scope='module')
def mesh():
  return make_mesh({'data': 1}, jax.devices()[:1])


def tiny():
  """The config of the stages in chip/stages_test.py, to compile it once."""
  return train_step.config_of(TINY.steps['0.6B'], TINY.dtype, 'none')


@pytest.fixture(scope='module')
def built(mesh):
  program = steps.make(tiny(), mesh)
  with jax.set_mesh(mesh):
    return program, program.lower().compile()


def read(f, *args, mesh, **options):
  """Plan data of a function whose arrays are all parameters."""
  place = jax.sharding.NamedSharding(mesh, jax.P())
  args = [jax.ShapeDtypeStruct(a, jnp.float32, sharding=place) for a in args]
  program = steps.Program(
    jax.jit(f, **options), tuple(args), {}, {'parameters': args}
  )
  return step.read(program.lower().compile(), program, tiny(), mesh)


@pytest.mark.long
def test_a_program_of_one_product_takes_its_operations_by_the_ceiling(mesh):
  found = read(lambda x, y: x @ y, (64, 32), (32, 16), mesh=mesh)
  products, moved = 2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16)
  assert sum(w.flops for w in found.work) == products
  assert found.collectives == []
  assert found.needed == moved
  at = lambda f, b: found.seconds({'flops': f, 'memory_rate': b})
  quick = at(1e6, 1e18)
  assert quick.total == quick.compute == pytest.approx(products / 1e6)
  assert quick.bound == 'compute' and at(1e18, 1e6).bound == 'memory'
  assert at(1e18, 1e6).total == pytest.approx(moved / 1e6)


@pytest.mark.long
def test_in_place_updates_count_once(mesh):
  f = lambda x, y: x + y
  size = 4 * 64 * 32
  assert read(f, (64, 32), (64, 32), mesh=mesh).needed == 3 * size
  assert read(f, (64, 32), (64, 32), mesh=mesh, donate_argnums=0).needed == (
    2 * size
  )


@pytest.mark.long
def test_the_text_of_a_step_has_the_products_of_its_mathematics(mesh, built):
  program, compiled = built
  with jax.set_mesh(mesh):
    jaxpr = jax.make_jaxpr(program.jitted)(*program.args).jaxpr
  found = step.read(compiled, program, tiny(), mesh)
  # XLA makes sums of a few products of vectors.
  assert sum(w.flops for w in found.work) == pytest.approx(
    flops.of_jaxpr(jaxpr), rel=0.01
  )
  given = sum(
    x.size * x.dtype.itemsize
    for x in jax.tree.leaves(list(program.parts.values()))
  )
  assert found.needed > given


@pytest.mark.long
def test_sides_take_turns_from_one_state(mesh, built):
  program, compiled = built
  order = []
  sides = {
    name: lambda *args, name=name: order.append(name) or compiled(*args)
    for name in ('ours', 'xla')
  }
  with jax.set_mesh(mesh):
    found = timing.measure(sides, program, repeats=2, count=2)
  assert order == 3 * ['ours', 'ours', 'xla', 'xla']
  assert all(len(x) == 2 and min(x) > 0 for x in found.seconds.values())
  assert int(found.state.step) == 12 and found.bytes is not None


def test_each_step_has_its_moments_with_one_in_flight():
  waited = []

  class Metrics:
    def block_until_ready(self):
      waited.append(self)
      return self

  state, moments = timing.run(
    lambda state, more: (state + more, Metrics()), 1, (2,), 3
  )
  assert state == 7 and len(moments) == 4 and len(waited) == 3
  assert timing.mean(moments) == pytest.approx(
    (moments[-1].wall - moments[0].wall) / 3
  )


@pytest.mark.long
def test_a_non_finite_loss_is_reported(mesh, built):
  program, compiled = built

  def init(key):
    state = program.init(key)
    return state._replace(
      players={
        name: player._replace(skipped=jnp.ones((), jnp.int32))
        for name, player in state.players.items()
      }
    )

  with jax.set_mesh(mesh), pytest.raises(UserError) as error:
    timing.measure({'a': compiled}, program._replace(init=jax.jit(init)), 1)
  assert (error.value.key, error.value.value) == ('loss', 1)


@pytest.mark.slow  # In process: chip/stages_test.py.
def test_a_worker_times_reads_and_profiles_its_sides(monkeypatch):
  dtypes = []
  monkeypatch.setattr(
    ceilings,
    'measure',
    lambda dtype: dtypes.append(dtype) or {'flops': 1e6, 'memory_rate': 1e18},
  )
  config = tiny()
  config.update(batch_size=8)
  config.mesh.update(data=2, fsdp=4)
  worker = step.Worker(jax.config.jax_compilation_cache_dir)
  ours, xla = worker.measure(
    Variant(
      'tiny',
      config.to_dict(),
      {'ours': {'relu_linear_attention': 'xla_chunked'}, 'xla': 'off'},
    ),
    2,
    True,
  )
  assert dtypes == ['float32'] and (ours.by, xla.by) == ('ours', 'xla')
  assert ours.mesh['data'] == 2 and ours.mesh['fsdp'] == 4
  for found in (ours, xla):
    assert len(found.seconds) == 2 and min(found.seconds) > 0
    assert found.predicted['total'] >= found.flops / 1e6 > 0
    assert found.needed_bytes > found.temporary_bytes > 0
    assert found.model_flops == steps.model_flops(config) > 0
    assert {'products', 'elementwise', 'collectives', 'idle'} <= {
      t.kind for t in found.times
    }
    assert found.unprofiled == '' and found.ceilings['page_rate'] > 0
    assert found.collectives and found.device.startswith('CPU (')
  with pytest.raises(UserError) as error:
    worker.measure(Variant('tiny', config.to_dict(), {'on': 'on'}), 1, False)
  assert (error.value.key, error.value.value) == ('--kernels', 'cpu')


def test_a_variant_that_fails_is_recorded_and_the_next_one_runs(monkeypatch):
  good = [Record('b', 'ours', 8, seconds=[1.0])]
  answers = [
    RuntimeError(
      'in Worker:\nTraceback ...\njax.errors.JaxRuntimeError: '
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate '
      '12.30GiB.\n[tf-allocator-allocation-error]'
    ),
    good,
    UserError('A process of the benchmark has died.'),
    RuntimeError('Traceback ...\n  x = f(x)\nValueError: no\nmore words'),
  ]
  running = []

  class Process:
    def call(self, method, variant, repeats, profiled):
      answer = answers.pop(0)
      if isinstance(answer, Exception):
        raise answer
      return answer

  @contextlib.contextmanager
  def start(*args):
    assert not running, 'two at once would share the memory'
    running.append(args)
    try:
      yield Process()
    finally:
      running.clear()

  monkeypatch.setattr(step.processes, 'start', start)
  variants = [Variant(n, tiny().to_dict(), {'ours': {}}) for n in 'abcd']
  found = list(step.records(variants, 1))
  assert [(r.config, r.failed) for r in found] == [
    ('a', 'out of memory (allocating 12.30GiB)'),
    ('b', ''),
    ('c', 'A process of the benchmark has died.'),
    ('d', 'ValueError: no'),
  ]


@pytest.mark.long
def test_the_exception_of_a_process_is_the_reason_of_its_failure():
  config = tiny()
  config.mesh.data = 7
  found = list(
    step.records(
      [Variant('seven', config.to_dict(), {'off': 'off', 'on': 'on'})], 1
    )
  )
  assert [r.by for r in found] == ['off', 'on']
  assert all(not r.seconds and 'mesh' in r.failed for r in found)


def test_mfu_is_over_all_devices():
  # 3e12 operations in 2 s on 4 chips of 2e12.
  record = Record(
    'a',
    'b',
    1,
    mesh={'data': 1, 'fsdp': 4},
    seconds=[4.0, 2.0],
    model_flops=3 * 10**12,
  )
  assert record.mfu(2e12) == 3 / 2 / 4 / 2
  assert dataclasses.replace(record, device='NVIDIA H200').published == 989e12
