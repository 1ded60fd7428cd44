"""Ranks by singular value decomposition: resized, merged and extracted."""

from lora_files import assert_same, delta, normal, POINT, QKV, random, SHAPES
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights.lora import resizing
from sana_jax.weights.lora.combining import Weighted
from sana_jax.weights.lora.resizing import Size
from sana_jax.weights.tensors import stored


def test_the_rank_is_cut_by_the_largest_singular_values():
  updates = random(rank=5, scale=0.7)
  got = resizing.resized(updates, Size(2))
  for key, low in updates.items():
    u, s, v = np.linalg.svd(delta(low))
    best = (u[:, :2] * s[:2]) @ v[:2]
    assert got[key].rank == 2
    np.testing.assert_allclose(delta(got[key]), best, rtol=1e-3, atol=1e-4)
    assert got[key].down.shape == (2, *SHAPES[key][1:])


def test_a_larger_rank_is_exact_and_so_is_all_of_the_norm():
  updates = random(rank=3)
  got = resizing.resized(updates, Size(16))
  assert_same(got, updates)
  assert {low.rank for low in got.values()} == {3}
  assert resizing.error(updates, got) < 1e-5


def test_a_part_of_the_norm_takes_fewer_ranks():
  key, (u, v) = QKV[0], (np.linalg.qr(normal(24, 4))[0] for _ in range(2))
  low = random([key], rank=4)[key]
  low = low._replace(
    up=np.float32(u * [3, 2, 1e-3, 1e-4]), down=np.float32(v.T)
  )
  got = resizing.resized({key: low}, Size(4, keep=0.99))
  assert got[key].rank == 2
  assert resizing.error({key: low}, got) == pytest.approx(
    1e-3 / 13**0.5, rel=0.1
  )


def test_the_error_is_that_of_all_layers_together():
  exact, other = random(), random()
  square = lambda x: sum(np.sum(delta(low) ** 2) for low in x.values())
  missed = sum(np.sum((delta(exact[k]) - delta(other[k])) ** 2) for k in exact)
  want = (missed / square(exact)) ** 0.5
  assert resizing.error(exact, other) == pytest.approx(want, rel=1e-4)


def test_merged_adapters_are_the_weighted_sum():
  a, b = random(rank=2), random([*QKV[:2], POINT], rank=3, scale=0.5)
  got = resizing.merged([Weighted(a, 2.0), Weighted(b, {POINT: -1.0})], None)
  for key, low in a.items():
    want = 2.0 * delta(low)
    if key in b:
      want = want + (-1.0 if key == POINT else 1.0) * delta(b[key])
    np.testing.assert_allclose(delta(got[key]), want, rtol=1e-4, atol=1e-4)
  assert resizing.merged([Weighted(a), Weighted(b)], Size(1))[POINT].rank == 1


def test_dora_cannot_be_merged_without_the_model():
  with pytest.raises(UserError) as e:
    resizing.merged([Weighted(random(dora=True))], None)
  assert e.value.key == 'lora'


def test_a_difference_of_low_rank_is_extracted_exactly():
  updates = random([*QKV[:2], POINT], rank=3)
  base = {f'{key}.weight': normal(*shape) for key, shape in SHAPES.items()}
  base['norm.weight'] = normal(5)
  tuned = {
    key: x + np.float32(delta(low)).reshape(x.shape)
    if (low := updates.get(key.removesuffix('.weight')))
    else x
    for key, x in base.items()
  }
  tuned['norm.weight'] = base['norm.weight'] + 1
  found = resizing.extracted(
    *({k: stored(x) for k, x in m.items()} for m in (base, tuned)),
    list(SHAPES),
    Size(3),
  )
  assert set(found.updates) == set(updates) and found.others == 1
  assert found.error < 1e-4
  for key, low in updates.items():
    np.testing.assert_allclose(
      delta(found.updates[key]), delta(low), rtol=1e-3, atol=1e-4
    )
