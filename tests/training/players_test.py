"""Several players in one run: each has its loss, its turn and its optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sana_jax.errors import UserError
from sana_jax.objectives.base import Aux, Objective, Player, turn

RUN = dict(
  optimizer={'name': 'adamw', 'learning_rate': 1e-2},
  other={'name': 'lion', 'learning_rate': 1e-3, 'clip_norm': 0.1},
)


def make(toy, share=True, **options):
  """A toy of two players: `out` goes by another optimizer than `in`."""

  class Two(toy.Toy):
    def players(self):
      apart = lambda *args: self.loss(*args)
      return (
        Player('in', self.loss, 'in/.*'),
        Player(
          'out',
          self.loss if share else apart,
          'out/.*',
          optimizer='other',
          **options,
        ),
      )

  return Two()


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def close(ours, theirs):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    ours,
    theirs,
  )


@pytest.mark.long
def test_each_player_moves_as_if_the_other_one_stood_still(toy):
  """After one step: both gradients are of the same parameters."""
  ((both, _),) = toy.steps(make(toy), num_steps=1, **RUN)
  for name, optimizer in (('in', RUN['optimizer']), ('out', RUN['other'])):
    ((alone, _),) = toy.steps(
      num_steps=1, trainable=f'{name}/.*', optimizer=optimizer
    )
    close(both.params[name], alone.params[name])
    close(both.ema[name], alone.ema[name])
    close(both.players[name], alone.players['model'])


@pytest.mark.long
def test_one_backward_pass_or_two_are_the_same(toy):
  (*_, (one, _)), (*_, (two, _)) = (
    toy.steps(make(toy, share), num_steps=4, accumulate_steps=2, **RUN)
    for share in (True, False)
  )
  close(one, two)


@pytest.mark.long
def test_a_run_of_two_players_resumes_bit_for_bit(toy, tmp_path):
  whole = toy.run(tmp_path / 'whole', make(toy, every=2, offset=1), **RUN)
  resumed = toy.resume(
    tmp_path / 'whole', tmp_path / 'cut', 8, make(toy, every=2, offset=1), **RUN
  )
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  count = lambda name: {
    int(n)
    for _, n in optax.tree.get_all_with_path(
      whole.players[name].opt_state, 'count'
    )
  }
  assert (count('in'), count('out')) == ({10}, {5})


@pytest.mark.long
def test_a_player_outside_the_ema_changes_nothing_else_of_it(toy):
  kept, without = (
    toy.steps(make(toy, every=2, in_ema=found), num_steps=3, **RUN)
    for found in (True, False)
  )
  for (a, _), (b, _) in zip(kept, without):
    assert set(a.ema) == {'in', 'out'} and set(b.ema) == {'in'}
    np.testing.assert_equal(bits(a.ema['in']), bits(b.ema['in']))
    np.testing.assert_equal(bits(a.params), bits(b.params))


def test_a_player_that_waits_does_not_move(toy):
  states = toy.steps(
    make(toy, every=3, offset=2), num_steps=6, ema_decay=0.0, **RUN
  )
  seen = [bits(state.params['out']) for state, _ in states]
  moved = [a != b for a, b in zip(seen, seen[1:])]
  assert moved == [False, True, False, False, True]  # Steps 3 and 6.


def test_a_gradient_that_is_not_finite_stops_only_its_own_player(toy):
  class Broken(toy.Toy):
    def players(self):
      def bad(params, frozen, batch, rngs, step):
        loss, aux = self.loss(params, frozen, batch, rngs, step)
        return jnp.where(step == 1, jnp.nan, 1.0) * loss, aux

      return (
        Player('in', self.loss, 'in/.*'),
        Player('out', bad, 'out/.*', optimizer='other'),
      )

  *_, (state, metrics) = toy.steps(Broken(), num_steps=4, **RUN)
  assert int(state.players['in'].skipped) == 0
  assert int(state.players['out'].skipped) == int(state.skipped) == 1
  assert int(state.players['out'].skipped_in_a_row) == 0
  assert metrics['skipped'] == 1


class Counted:
  """Makes toys whose parameter `seen/mean` is a running mean of the batch."""

  def __new__(cls, toy):
    class Running(toy.Toy):
      rules = [*toy.Toy.rules, ('seen/mean', ())]
      extra = 'seen/.*'

      def init(self, rng):
        return {**super().init(rng), 'seen': {'mean': jnp.zeros(16)}}

      def loss(self, params, frozen, batch, rngs, step):
        loss, aux = super().loss(params, frozen, batch, rngs, step)
        mean = 0.5 * (params['seen']['mean'] + jnp.mean(batch['x'], axis=0))
        return loss, Aux(aux.metrics, {'seen': {'mean': mean}})

    return Running()


@pytest.mark.long
def test_extra_parameters_are_updated_by_the_loss_and_exported(toy, tmp_path):
  task, seen = Counted(toy), []
  original = task.batches

  def batches(**options):
    found = original(**options)
    original_next = type(found).__next__

    class Watched(type(found)):
      def __next__(self):
        seen.append(original_next(self)['x'])
        return {'x': seen[-1]}

    found.__class__ = Watched
    return found

  task.batches = batches
  changes = dict(num_steps=4, accumulate_steps=2, checkpoint_every_steps=2)
  whole = toy.run(tmp_path / 'whole', task, **changes)
  want = np.zeros(16)
  for x in seen[:4]:
    want = 0.5 * (want + x.mean(axis=0))
  np.testing.assert_allclose(whole.extra['seen']['mean'], want, rtol=1e-5)
  assert 'seen' not in whole.params and 'seen' not in whole.ema
  resumed = toy.resume(
    tmp_path / 'whole', tmp_path / 'cut', 2, Counted(toy), **changes
  )
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  with np.load(tmp_path / 'cut/model/model.npz') as model:
    np.testing.assert_array_equal(
      model['seen_mean'], whole.extra['seen']['mean']
    )


def test_extra_parameters_stay_after_a_loss_that_is_not_finite(toy):
  task = Counted(toy)
  task.rows[:] = np.nan
  *_, (state, _) = toy.steps(task, num_steps=2)
  np.testing.assert_array_equal(state.extra['seen']['mean'], 0)


def test_a_loss_receives_the_number_of_previous_steps(toy):
  class Counting(toy.Toy):
    def loss(self, params, frozen, batch, rngs, step):
      loss, aux = super().loss(params, frozen, batch, rngs, step)
      return loss, Aux({**aux.metrics, 'before': jnp.float32(step)})

  found = toy.steps(Counting(), num_steps=3, accumulate_steps=2)
  assert [metrics['before'] for _, metrics in found] == [0, 1, 2]


def test_turns_are_counted_and_none_is_empty():
  odd = Player('odd', len, every=2, offset=1)
  assert [odd.turns(step) for step in range(6)] == [0, 0, 1, 1, 2, 2]
  assert [odd.moves(step) for step in range(4)] == [False, True, False, True]
  even = Player('even', len, every=2)
  assert [[p.name for p in turn((odd, even), s)] for s in range(2)] == [
    ['even'],
    ['odd'],
  ]
  with pytest.raises(ValueError, match=r'\[0\]'):
    Objective(len, (), (odd,), len)


def test_a_player_without_trainable_parameters_raises(toy, tmp_path):
  with pytest.raises(UserError, match=r'\bout\b') as caught:
    toy.run(tmp_path / 'run', make(toy), trainable='in/.*', **RUN)
  assert (caught.value.key, caught.value.value) == ('trainable', 'in/.*')
  assert not (tmp_path / 'run').exists()


def test_the_group_of_a_players_optimizer_is_named(toy, tmp_path):
  with pytest.raises(UserError) as caught:
    toy.run(
      tmp_path / 'run',
      make(toy),
      **RUN | {'other': {'name': 'x', 'learning_rate': 1.0}},
    )
  assert (caught.value.key, caught.value.value) == ('other.name', 'x')
