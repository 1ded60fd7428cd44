"""Collectives: bytes by closed forms, groups by axes, links by places."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sana_jax.analysis import chips, collectives, hlo
from sana_jax.analysis.collectives import Collective, Place
from sana_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.fast

V5E = chips.get('v5e')


def compiled(f, mesh, *arrays):
  """Collectives of f on 8 CPU devices; arrays are (shape, spec)."""
  args = [
    jax.ShapeDtypeStruct(
      shape,
      jnp.float32,
      sharding=(jax.sharding.NamedSharding(mesh, jax.P(*spec))),
    )
    for shape, spec in arrays
  ]
  out = jax.sharding.NamedSharding(mesh, jax.P())
  text = jax.jit(f, out_shardings=out).lower(*args).compile().as_text()
  here = [Place((i,), 0) for i in range(8)]
  return collectives.find(hlo.parse(text), dict(mesh.shape), here, (8,))


def test_gathering_sharded_weights_moves_their_bytes():
  mesh = make_mesh({'data': 2, 'fsdp': 4}, jax.devices())
  found = compiled(
    lambda w, x: x @ w, mesh, ((64, 32), ('fsdp',)), ((16, 64), ())
  )
  (gather,) = (c for c in found if c.kind == 'all-gather')
  # Of 64 x 32 float32 weights, three quarters come from others.
  assert (gather.axes, gather.count) == ('fsdp', 1)
  assert gather.bytes == 64 * 32 * 4 * 3 / 4


def test_a_sum_over_the_batch_goes_twice_round():
  mesh = make_mesh({'data': 4, 'fsdp': 2}, jax.devices())
  found = compiled(lambda x: x.sum(0), mesh, ((16, 128), (('data', 'fsdp'),)))
  (total,) = (c for c in found if c.kind == 'all-reduce')
  assert total.axes == 'data+fsdp'
  assert total.bytes == 2 * 128 * 4 * 7 / 8


def test_in_a_loop_each_round_counts():
  mesh = make_mesh({'data': 8}, jax.devices())

  def f(x):
    step = lambda c, row: (c + x.sum(0) * c.mean(), None)
    return (
      jax.lax.scan(step, jnp.ones(32), jnp.ones(6))[0]
      + jax.lax.scan(
        lambda c, _: (jnp.tanh((x * c).sum(0)), None), jnp.ones(32), None, 6
      )[0]
    )

  found = compiled(f, mesh, ((16, 32), ('data',)))
  assert max(c.count for c in found) >= 6


@pytest.mark.parametrize(
  'kind, n, sent',
  [
    ('all-gather', 4, 3 * 100),
    ('reduce-scatter', 4, 75),
    ('all-reduce', 4, 150),
    ('all-to-all', 4, 75),
    ('collective-permute', 2, 100),
  ],
)
def test_bytes_that_a_device_sends_in_a_ring(kind, n, sent):
  assert collectives.bytes_sent(kind, 100, n) == sent


@pytest.mark.parametrize(
  'text, group',
  [
    ('replica_groups={{0,2},{1,3}}, x', [0, 2]),
    ('replica_groups=[2,4]<=[8]', [0, 1, 2, 3]),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', [0, 4]),
    (
      "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}",
      [0, 1, 2, 3],
    ),
    ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [0, 4]),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", [0, 1, 2, 3]),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4]),
    ("replica_groups=mesh['a'=4,'b'=2] {'a':(2)2,'b'}", [0, 1, 2, 3]),
    ('source_target_pairs={{3,5},{4,6}}', [3, 5]),
    ('replica_groups={}', list(range(8))),
  ],
)
def test_groups_in_each_of_their_notations(text, group):
  assert collectives.members(text, 8) == group


def test_a_link_is_the_slowest_that_is_crossed():
  torus = [Place((i % 4, i // 4 % 4), i // 16) for i in range(32)]
  link = collectives._link
  assert link([0, 1, 2, 3], torus, (4, 4)) == ('ici', 1)  # An open row.
  assert link(list(range(16)), torus, (4, 4)) == ('ici', 2)
  assert link([0, 16], torus, (4, 4)) == ('dcn', 1)
  assert link(list(range(32)), torus, (4, 4)) == ('dcn', 16)
  hosts = [Place((), i // 8) for i in range(16)]
  assert link([0, 7], hosts, ()) == ('nvlink', 1)
  assert link([0, 8], hosts, ()) == ('network', 1)


@pytest.mark.parametrize(
  'torus, axis, extent, closed',
  [
    ((16, 16), 0, 16, True),
    ((16, 16), 0, 8, False),
    ((8, 8), 0, 8, False),
    ((4, 4, 8), 2, 8, True),
    ((2, 2, 4), 2, 4, False),
  ],
)
def test_which_rings_close(torus, axis, extent, closed):
  assert collectives.closes(torus, axis, extent) is closed


def test_seconds_follow_from_links():
  one = Collective('all-reduce', 'data', 'ici', 4, False, 1, 200e9)
  assert one.seconds(V5E) == 1.0  # 4 links of 50 GB/s.
  half = dataclasses.replace(one, ways=2)
  assert half.seconds(V5E) == 2.0
  # A group's 8 members in a slice send over their 8 x 25 Gbit/s together.
  far = dataclasses.replace(one, link='dcn', ways=8)
  assert far.seconds(V5E) == pytest.approx(200 / (8 * 25 / 8))
  h200 = chips.get('h200')
  rails = dataclasses.replace(one, link='network', ways=8)
  assert rails.seconds(h200) == pytest.approx(200 / (8 * 50))


def test_pieces_of_one_gather_on_a_tpu_are_one():
  piece = (
    '  %all-gather.{n} = f32[64]{{0}} all-gather(%p), channel_id=7, '
    'replica_groups=[1,8]<=[8], frontend_attributes={{chain_id="3"}}\n'
  )
  text = (
    'ENTRY %main (p: f32[8]) -> f32[64] {\n  %p = f32[8]{0} parameter(0)'
    '\n' + piece.format(n=1) + piece.format(n=2) + '}\n'
  )
  here = [Place((i,), 0) for i in range(8)]
  (one,) = collectives.find(hlo.parse(text), {'fsdp': 8}, here, (8,))
  assert (one.count, one.bytes, one.hidden) == (1, 7 * 8 * 4, True)


def test_a_sum_that_is_then_cut_is_a_reduce_scatter():
  text = """
%all-reduce-scatter.1 (x: f32[64]) -> f32[8] {
  %x = f32[64]{0} parameter(0)
  %r = f32[64]{0} all-reduce(%x), channel_id=2, replica_groups=[1,8]<=[8]
  ROOT %s = f32[8]{0} dynamic-slice(%r)
}
ENTRY %main (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
  here = [Place((i,), 0) for i in range(8)]
  (one,) = collectives.find(hlo.parse(text), {'fsdp': 8}, here, (8,))
  assert (one.kind, one.bytes, one.axes) == (
    'reduce-scatter',
    64 * 4 * 7 / 8,
    'fsdp',
  )


SPARSE_CORE = """
%called (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  ROOT %sum = f32[64]{0} all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}, \
to_apply=%add
}

ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  %start = ((f32[64]{0}), f32[64]{0}) call-start(%a), \
async_execution_thread="sparsecore", to_apply=%called
  ROOT %done = f32[64]{0} call-done(%start)
}
"""


def test_collectives_on_a_tpu7x_sparse_core_count_and_are_hidden():
  here = [Place((i,), 0) for i in range(8)]
  (found,) = collectives.find(hlo.parse(SPARSE_CORE), {'data': 8}, here, (8,))
  assert (found.kind, found.axes, found.count) == ('all-reduce', 'data', 1)
  assert found.hidden and found.bytes == 2 * 64 * 4 * 7 / 8
