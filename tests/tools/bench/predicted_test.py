"""Programs for devices that are here are read by closed forms, and run."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sana_jax import config as configs
from sana_jax.analysis import ceilings, flops
from sana_jax.errors import UserError
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools import tables
from sana_jax.tools.bench import predicted, predicted_report
from sana_jax.tools.bench.predicted import Record
from sana_jax.tools.plan import report, steps

GIB = 2**30
RECORD = Record(
  'shapes', 'float32', 32, 'a chip', [2.5, 2., 4.], predicted=1.5, compute=1.,
  memory=.5, needed=3 * GIB, used=4 * GIB, flops=2e12, moved=3e9,
  matmul_flops=2e12, memory_rate=6e9, temporaries=GIB, page_rate=2. * GIB)
FAILED = Record('shapes:quick', 'bfloat16', 8, failed='out of memory')
RUN = predicted_report.Run(
  [RECORD, dataclasses.replace(RECORD, used=None), FAILED], 'a chip',
  '2026-01-01', {'jax': '1'}, 'sana-jax bench plan', 'Nothing else ran.')


@pytest.fixture(scope='module')
def mesh():
  return make_mesh({'data': 1}, jax.devices()[:1])


def tiny():
  config = configs.train('sana').unlock()
  config.model.update(dict(
    width=32, depth=2, cross_heads=2, head_dim=8, in_channels=4,
    out_channels=4, caption_channels=8, sample_size=2))
  config.batch_size = 4
  return config


@pytest.fixture(scope='module')
def step(mesh):
  program = steps.make(tiny(), mesh)
  with jax.set_mesh(mesh):
    return program, program.lower().compile()


def read(f, *args, mesh, **options):
  """Of a function of described arrays, all of which are parameters."""
  place = jax.sharding.NamedSharding(mesh, jax.P())
  args = [jax.ShapeDtypeStruct(a, jnp.float32, sharding=place) for a in args]
  program = steps.Program(
    jax.jit(f, **options), tuple(args), {}, {'parameters': args})
  return predicted.read(program.lower().compile(), program, tiny(), mesh)


def test_a_program_of_one_product_takes_its_operations_by_the_ceiling(mesh):
  found = read(lambda x, y: x @ y, (64, 32), (32, 16), mesh=mesh)
  products, moved = 2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16)
  assert sum(w.flops for w in found.work) == products
  assert found.collectives == []
  assert found.needed == moved
  at = lambda f, b: report.seconds(
    found.work, found.collectives,
    ceilings.device_of('cpu', {'flops': f, 'memory_rate': b}))
  quick = at(1e6, 1e18)
  assert quick.total == quick.compute == pytest.approx(products / 1e6)
  assert quick.bound == 'compute' and at(1e18, 1e6).bound == 'memory'
  assert at(1e18, 1e6).total == pytest.approx(moved / 1e6)


def test_what_is_updated_in_place_is_counted_once(mesh):
  f = lambda x, y: x + y
  size = 4 * 64 * 32
  assert read(f, (64, 32), (64, 32), mesh=mesh).needed == 3 * size
  assert read(f, (64, 32), (64, 32), mesh=mesh, donate_argnums=0).needed == (
    2 * size)


def test_the_text_of_a_step_has_the_products_of_its_mathematics(mesh, step):
  program, compiled = step
  with jax.set_mesh(mesh):
    jaxpr = jax.make_jaxpr(program.jitted)(*program.args).jaxpr
  found = predicted.read(compiled, program, tiny(), mesh)
  # XLA makes sums of a few products of vectors.
  assert sum(w.flops for w in found.work) == pytest.approx(
    flops.of_jaxpr(jaxpr), rel=.01)


def test_a_step_needs_its_state_and_batch_at_least(mesh, step):
  program, compiled = step
  given = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(
    list(program.parts.values())))
  assert predicted.read(compiled, program, tiny(), mesh).needed > given


def test_steps_are_timed_after_two_and_their_memory_is_told(mesh, step):
  program, compiled = step
  with jax.set_mesh(mesh):
    seconds, used = predicted.run(compiled, program, repeats=3)
  assert len(seconds) == 3 and min(seconds) > 0
  assert used is not None


def test_a_loss_that_is_not_finite_is_told(mesh, step):
  program, compiled = step
  def init(key):
    state = program.init(key)
    model = state.players['model']._replace(skipped=jnp.ones((), jnp.int32))
    return state._replace(players={'model': model})
  skipped = jax.jit(init)
  with jax.set_mesh(mesh), pytest.raises(UserError, match='not finite'):
    predicted.run(compiled, program._replace(init=skipped), repeats=1)


def test_a_worker_measures_with_the_ceilings_of_the_configs_type(
    monkeypatch, mesh):
  asked = []
  monkeypatch.setattr(ceilings, 'measure', lambda dtype: (
    asked.append(dtype) or {'flops': 1e6, 'memory_rate': 1e18}))
  worker = predicted.Worker(jax.config.jax_compilation_cache_dir)
  found = worker.measure('tiny', tiny().to_dict(), 2)
  assert asked == ['float32'] and (found.config, found.batch) == ('tiny', 4)
  assert found.predicted == pytest.approx(found.flops / 1e6)
  assert found.predicted == pytest.approx(found.compute) and found.flops > 0
  assert len(found.seconds) == 2 and found.needed > found.temporaries > 0
  assert found.page_rate > 0
  assert found.device.startswith('CPU (')


def test_a_config_that_fails_is_told_and_the_next_one_runs(monkeypatch):
  answers = [RuntimeError('Traceback\nValueError: no\nmore'), RECORD,
             UserError('A process of the benchmark has died.')]

  class Side:
    def ask(self, method, name, values, repeats):
      answer = answers.pop(0)
      if isinstance(answer, Exception):
        raise answer
      return answer
  monkeypatch.setattr(predicted.processes, 'start',
                      lambda *_: contextlib.nullcontext(Side()))
  found = list(predicted.records([(n, tiny()) for n in 'abc'], 1))
  assert [r.failed for r in found] == [
    'ValueError: no', '', 'A process of the benchmark has died.']
  assert found[0].config == 'a' and found[1] == RECORD


def test_what_a_process_raises_is_why_its_config_failed():
  config = tiny()
  config.mesh.data = 7
  (found,) = predicted.records([('seven', config)], 1)
  assert found.config == 'seven' and 'mesh' in found.failed


def test_rows_have_errors_of_time_and_memory():
  head, row, untold, failed = predicted_report.rows(RUN)
  assert row == ('shapes', 'float32', '32', '1.5', '1', '0.5', '2', '2.5',
                 '-25%', '3.000', '4.000', '-25.0%')
  assert untold[-3:] == ('3.000', '', '')
  assert failed[:3] == ('shapes:quick', 'bfloat16', '8')
  assert 'out of memory' in failed
  assert len({len(r) for r in (head, row, untold, failed)}) == 1


def test_ceilings_stand_beside_what_they_bound():
  head, row, _ = predicted_report.ceiling_rows(RUN)
  assert row == ('shapes', '2,000.0', '3.00', '2', '6', '1.000', '0.5')
  gpu = dataclasses.replace(RUN, records=[
    dataclasses.replace(RECORD, page_rate=0.)])
  assert predicted_report.ceiling_rows(gpu)[1][-2:] == ('1.000', '')


def test_json_and_page_hold_everything():
  assert predicted_report.from_json(tables.to_json(RUN)) == RUN
  page = predicted_report.markdown([RUN])
  assert '`sana-jax bench plan`' in page and 'Nothing else ran.' in page
  assert '| shapes | float32 | 32 | 1.5 |' in page
  assert predicted_report.table(RUN).splitlines()[0] == 'a chip'
  with pytest.raises(UserError, match='not what sana-jax bench'):
    predicted_report.from_json('{}')
