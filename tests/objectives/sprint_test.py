"""The players of a distillation: gradients, turns, and what they carry on."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.models import abstract
from sana_jax.models.ladd import Heads
from sana_jax.models.sana import Sana
from sana_jax.objectives import adversary, sprint
from sana_jax.objectives.adversary import Turn
from sana_jax.objectives.base import turn
from sana_jax.objectives.sprint_networks import Sprint
from sana_jax.sharding import tables

TEACHER = Sana(
  width=16,
  depth=2,
  cross_heads=2,
  head_dim=8,
  in_channels=3,
  out_channels=3,
  caption_channels=6,
  sample_size=4,
)
STUDENT = TEACHER.clone(guidance_embeds=True, guidance_embeds_scale=10.0)
TOKENS, BATCH = 4, 4


def settings(group, **changes):
  config = base.train('sprint')[group].copy_and_resolve_references().unlock()
  return ConfigDict({**config, **changes})


def distillation(teacher=TEACHER, ladd=None, **changes):
  path = TrigFlow()
  ladd = settings('ladd', **(dict(blocks=(0, 1)) | (ladd or {})))
  return Sprint(
    Denoiser(STUDENT, path),
    Denoiser(teacher, path) if teacher else None,
    Heads(ladd.norm, ladd.spectral, ladd.virtual_batch),
    settings('sprint', tangent_warmup_steps=4, **changes),
    ladd,
  )


def objective(of):
  return sprint.objective(
    of,
    init=abstract.transformer_init(STUDENT),
    rules=tables.SANA,
    head_rules=tables.LADD_HEADS,
    tokens=TOKENS,
    teacher=of.teacher and abstract.transformer(of.teacher.module),
  )


def drawn(shapes):
  """Random arrays of these shapes; true for booleans."""

  def draw(x):
    if x.dtype == bool:
      return jnp.ones(x.shape, bool)
    values = np.random.default_rng().normal(scale=0.3, size=x.shape)
    return jnp.asarray(values, x.dtype)

  return jax.tree.map(draw, shapes)


def case(aim):
  """(params, frozen, batch, rngs) of an objective."""
  params = drawn(jax.eval_shape(aim.init, jax.random.key(0)))
  start = aim.init(jax.random.key(0))
  fixed = {k: start[k] for k in (adversary.SPECTRAL,) if k in start}
  rngs = jax.random.split(jax.random.key(1), BATCH)
  return params | fixed, drawn(aim.frozen()), drawn(aim.batch(BATCH)), rngs


def gradient(player, args, step=5):
  loss = lambda params, *rest: player.loss(params, *rest, step)
  return jax.jit(jax.value_and_grad(loss, has_aux=True))(*args)


def test_without_a_weight_there_is_one_player_and_no_discriminator():
  aim = objective(distillation())
  params = jax.eval_shape(aim.init, jax.random.key(0))
  assert [p.name for p in aim.players] == ['model']
  assert not set(params) & set(sprint.OTHERS)
  assert set(aim.frozen()) == {'null_text', 'null_mask', 'teacher'}


@pytest.mark.long
@pytest.mark.parametrize(
  'kind', [pytest.param('hinge', marks=pytest.mark.slow), 'cross_entropy']
)
def test_both_players_in_one_step_have_the_gradients_of_their_own_turns(kind):
  ladd = dict(weight=0.5, loss=kind, r1=0.01)
  both = objective(distillation(ladd=dict(ladd, turns='both')))
  alone = objective(distillation(ladd=dict(ladd, turns='alternate')))
  args = case(both)
  assert len({p.loss for p in both.players}) == 1
  _, got = gradient(both.players[0], args)
  # A turn of one player counts half the steps.
  (_, _), student = gradient(alone.players[0], args, step=10)
  (_, _), judge = gradient(alone.players[1], args, step=10)
  for part, grads in got.items():
    want = judge if part == adversary.DISCRIMINATOR else student
    other = student if part == adversary.DISCRIMINATOR else judge
    for a, b, c in zip(*map(jax.tree.leaves, (grads, want[part], other[part]))):
      np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))
      assert not np.any(c), part


def test_players_take_turns_and_share_out_the_parameters():
  aim = objective(distillation(ladd=dict(weight=1.0)))
  names = [[p.name for p in turn(aim.players, step)] for step in range(3)]
  assert names == [['model'], ['discriminator'], ['model']]
  assert aim.players[1].optimizer == 'discriminator'
  assert aim.extra == 'spectral/.*'


@pytest.mark.long
def test_vectors_of_the_spectral_norms_are_renewed_once_in_each_turn():
  aim = objective(distillation(ladd=dict(weight=1.0, blocks=(1,))))
  args = case(aim)
  params = args[0]
  for player in aim.players:
    (_, aux), _ = gradient(player, args)
    kernel = np.asarray(params['discriminator']['head_0']['out']['kernel'])
    before = params['spectral']['head_0']['out']
    after = aux.extra['spectral']['head_0']['out']
    u, matrix = np.asarray(before['u']), kernel.reshape(-1, 1).T
    v = matrix.T @ u
    v /= np.linalg.norm(v)
    u = matrix @ v
    np.testing.assert_allclose(after['v'].reshape(-1), v, atol=1e-6)
    np.testing.assert_allclose(after['u'], u / np.linalg.norm(u), atol=1e-6)


@pytest.mark.long
def test_the_target_of_the_discrete_loss_is_an_ema_of_the_student():
  aim = objective(distillation(loss='discrete', target_decay=0.5))
  args = case(aim)
  (_, aux), grads = gradient(aim.players[0], args, step=8)
  assert set(aux.extra) == {'target'}
  assert not any(np.any(x) for x in jax.tree.leaves(grads['target']))
  # ema.py: the decay after 8 updates is min(0.5, 9 / 18).
  params = args[0]
  want = jax.tree.map(
    lambda a, b: (a + b) / 2, params['target'], sprint.student_of(params)
  )
  for a, b in zip(*map(jax.tree.leaves, (aux.extra['target'], want))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_without_a_teacher_only_the_null_text_is_frozen():
  aim = objective(distillation(None, loss='discrete', target_decay=0.9))
  assert set(aim.frozen()) == {'null_text', 'null_mask'}
  (loss, _), _ = gradient(aim.players[0], case(aim))
  assert np.isfinite(loss) and loss > 0


@pytest.mark.long
def test_features_of_a_wrong_caption_count_as_fakes():
  of = distillation(ladd=dict(weight=1.0, turns='both', blocks=(1,)))
  aim = objective(of)
  params, frozen, batch, rngs = case(aim)
  (_, aux), _ = gradient(aim.players[0], (params, frozen, batch, rngs))
  logits = {
    k: float(aux.metrics[f'logits/{k}']) for k in ('real', 'fake', 'misaligned')
  }
  assert len(set(logits.values())) == 3
  same = {
    **batch,
    'latents': jnp.broadcast_to(batch['latents'][:1], batch['latents'].shape),
  }
  turned = adversary.losses(
    of,
    Turn(False, True),
    params,
    sprint.student_of(params),
    frozen,
    same,
    rngs,
    0,
  )
  assert np.isfinite(turned[0])
