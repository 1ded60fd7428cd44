"""A run and a bare loop alternate; ratios are those of their clocks."""

import json

import grain
import pytest

from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.bench import loop, loop_report
from sana_jax.tools.bench.loop import Block
from sana_jax.tools.bench.loop_report import LOOP
from sana_jax.tools.report import Run, to_json

_BARE = [
  Block([1.0, 1.0], cpu=1.0),
  Block([2.0, 2.0], cpu=2.0),
  *3 * [Block([3.0, 3.0], cpu=1.0)],
]
_TRAIN = [
  Block([2.0, 2.0], 0.04, cpu=2.0),
  Block([2.0, 6.0], 0.08, 1, cpu=2.0),
  Block([4.0, 4.0], 0.08, cpu=2.0),
  Block([4.0, 12.0], 0.08, 1, cpu=4.0),
]
RUN = Run(
  [*(x for pair in zip(_BARE, _TRAIN) for x in pair), _BARE[-1]],
  'a chip',
  '2026-01-01',
  {'jax': '1'},
  'sana-jax bench step --against-loop',
  {
    'config': 'shapes',
    'data': 'shapes',
    'batch_size': 8,
    'threads': 4,
    'save_every': 20,
    'mesh': {'data': 2},
  },
)


class Clock:
  """A clock that moves only by calls of a test."""

  def __init__(self):
    self.now = 0.0

  def perf_counter(self):
    return self.now

  def process_time(self):
    return 2 * self.now  # Two threads.


class Batches(grain.DatasetIterator):
  """Each takes a second of the clock."""

  def __init__(self, clock):
    super().__init__()
    self.clock, self.count = clock, 0

  def __next__(self):
    self.clock.now += 1
    self.count += 1
    return {'x': self.count}

  def get_state(self):
    return {'count': self.count}

  def set_state(self, state):
    self.count = state['count']


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return {x['step']: x['loss'] for x in map(json.loads, lines)}


@pytest.fixture(scope='module')
def trained(toy, tmp_path_factory):
  """(result of a measured toy run, its folder)."""
  config, folder = (
    toy.get_config(log_every_steps=1),
    tmp_path_factory.mktemp('turns'),
  )
  return loop.measure(
    config, toy.Toy().make(), folder, make_mesh(config.mesh), steps=4, rounds=1
  ), folder


@pytest.mark.long
def test_a_run_trains_unchanged_and_pauses_between_its_blocks(trained):
  found, folder = trained
  assert [len(b.seconds) for b in found.blocks[1::2]] == [4, 4]
  assert [len(b.seconds) for b in found.blocks[::2]] == [4, 4, 4]
  assert [b.saves for b in found.blocks[1::2]] == [0, 1]
  assert 0 < found.blocks[1].waited < found.blocks[1].total
  assert found.threads == 2  # Of the toy's batches.
  # 3 steps, two blocks of 3 + 4, and one more.
  assert list(losses(folder)) == list(range(1, 19))
  assert sorted(p.name for p in (folder / 'checkpoints').iterdir()) == [
    '14',
    '18',
  ]
  assert not (folder / 'pictures').exists()


@pytest.mark.long
def test_the_run_ends_where_it_ends_alone(trained, toy, tmp_path):
  toy.run(tmp_path, num_steps=18, log_every_steps=1, pictures_every_steps=0)
  assert losses(trained[1]) == losses(tmp_path)


def test_the_time_of_a_block_is_the_runs_alone(toy, monkeypatch):
  clock = Clock()
  monkeypatch.setattr(loop, 'time', clock)

  def bare(steps):
    clock.now += 1000
    return Block([250.0] * steps)

  task = toy.Toy()
  task.batches = lambda: Batches(clock)
  turns = loop.Turns(5, lambda batch: bare)
  batches = turns.of(task.make()).data.batches()
  for _ in range(2 + 2 * 5 + 1):
    next(batches)
    clock.now += 4
  # 3 of 5 steps are a warm-up.
  alone = Block([250.0, 250.0])
  assert turns.blocks == [
    alone,
    Block([5.0, 5.0], 2.0, cpu=20.0),
    alone,
    Block([5.0, 5.0], 2.0, 1, cpu=20.0),
    alone,
  ]
  assert batches.get_state() == {'count': 13}


def test_the_bare_loop_starts_from_the_runs_first_state(toy):
  config, task = toy.get_config(num_steps=8), toy.Toy()
  batches = task.batches(seed=0, batch_size=16, rows=range(16))
  mesh = make_mesh(config.mesh)
  bare = loop.Bare(config, task.make(), mesh, next(batches))
  assert int(bare._state.step) == 0
  assert len(bare(2).seconds) == 2
  assert int(bare._state.step) == 5 and int(bare._state.skipped) == 0


def test_ratios_are_of_the_bare_blocks_around():
  assert loop_report.ratios(RUN, 0) == [3 / 4, 6 / 8]
  assert loop_report.ratios(RUN, 1) == [5 / 8, 6 / 16]
  assert loop_report.ratios(RUN, 0, 'cpu') == [3 / 4, 1 / 2]
  assert loop_report.ratios(RUN, 1, 'cpu') == [3 / 4, 1 / 4]


def test_a_checkpoint_counts_as_often_as_the_config_saves():
  # Saving makes 2 steps 1 / (5 / 8 + 6 / 16) * 2 bare blocks, which is 2, in
  # place of 4 / 3. Of 20 steps it is 2/3 of 2 bare steps.
  assert loop_report.as_configured(RUN) == pytest.approx(
    1 / (4 / 3 + (2 - 4 / 3) * 2 / 20)
  )


def test_rows_of_a_measurement():
  head, plain, saving, bare = loop_report.rows(RUN)
  assert head[1:] == (
    'images/s',
    'p50',
    'p90',
    'p99',
    'ratio',
    'CPU ratio',
    'data wait',
    'threads',
  )
  # 2 steps of 8 images in 4 and in 8 seconds; 0.12 of 12 seconds.
  assert plain == (
    'train',
    '3.0 [2.5, 3.5]',
    '3.0000',
    '4.0000',
    '4.0000',
    '0.750 [0.750, 0.750]',
    '0.625 [0.562, 0.688]',
    '1.00%',
    '4',
  )
  assert saving[5:] == (
    '0.500 [0.438, 0.562]',
    '0.500 [0.375, 0.625]',
    '0.67%',
    '4',
  )
  assert bare[1] == '2.7 [2.7, 4.0]' and bare[5:] == ('', '', '', '')


def test_json_and_page_hold_everything():
  assert LOOP.from_json(to_json(RUN)) == RUN
  page = LOOP.markdown([RUN])
  assert '## shapes, shapes, 8 images a batch, data 2, 4 blocks of 2' in page
  assert 'every 20 steps, as configured, the ratio is 0.714.' in page


def test_the_bare_step_of_a_partial_run_trains_the_same_part(toy):
  config = toy.get_config(trainable='out/.*')
  batch = next(toy.Toy().batches(seed=0, batch_size=16, rows=list(range(16))))
  bare = loop.Bare(config, toy.Toy().make(), make_mesh(config.mesh), batch)
  bare(1)
  assert set(bare._state.params) == {'out'}
