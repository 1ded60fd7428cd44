"""Layouts on pods, before anything is compiled."""

import pytest

from sana_jax import config as base
from sana_jax.analysis import chips
from sana_jax.tools.plan import candidates

POD = chips.parse('v5e:16x16')


def config(batch=1024, **mesh):
  found = base.train('sana')
  found.model.update(base.SANA_SIZES['sana_1600m_1024'])
  found.batch_size = batch
  found.mesh.update({'data': 1, **mesh})
  return found


@pytest.fixture(scope='module')
def params():
  return candidates.shapes(config())


def made(params, pod=POD, **kwargs):
  return candidates.make('mine', config(**kwargs), pod, params)


def test_sizes_are_resolved_for_every_axis(params):
  (one,) = made(params, data=-1, fsdp=64)
  assert one.problem == ''
  assert one.layout() == {
    'mesh.data': 4,
    'mesh.fsdp': 64,
    'mesh.tensor': 1,
    'mesh.sequence': 1,
    'mesh.slices': 1,
    'model.remat': 'none',
    'accumulate_steps': 1,
  }


def test_where_an_axis_does_not_divide_the_nearest_valid_size_is_added(
  params,
):
  # The width is 2240 = 2^6 * 35.
  failed, other = made(params, fsdp=-1)
  assert failed.problem.startswith('fsdp=256 does not divide 2240 of ')
  assert failed.problem.endswith('set mesh.fsdp=64 and mesh.data=-1.')
  assert (other.name, other.config.mesh.data, other.config.mesh.fsdp) == (
    'mine_64',
    4,
    64,
  )


def test_a_layout_for_slices_takes_all_slices_of_the_pod(params):
  pod = chips.parse('v5e:8x8@4')
  (one,) = made(params, pod, fsdp=-1, slices=2)
  assert (one.config.mesh.slices, one.config.mesh.fsdp) == (4, 64)
  gpus = chips.parse('h200:1x4x8')
  (one,) = made(params, gpus, fsdp=-1, slices=2)
  assert (one.config.mesh.slices, one.config.mesh.fsdp) == (4, 8)


def test_a_layout_for_slices_needs_several(params):
  (one,) = made(params, fsdp=-1, slices=2)
  assert 'needs at least 2 slices or hosts; v5e:16x16 has 1' in one.problem


@pytest.mark.parametrize(
  'mesh, message',
  [
    (dict(data=-1, tensor=3), 'a product of 3 that must divide the number of'),
    (dict(data=2, fsdp=64), 'a product of 128 that must be the number .*256'),
    (
      dict(data=-1, tensor=16),
      r'tensor=16 does not divide config.model.cross_heads=20; .* 10, 20',
    ),
    (dict(data=-1, tensor=4), r'width / head_dim=70; nearest .* are 1, 2, 5'),
    (
      dict(data=-1, sequence=64),
      r'sample_size=32; nearest that do are 8, 16, 32',
    ),
  ],
)
def test_an_invalid_mesh_is_reported_with_valid_sizes(mesh, message, params):
  import re

  first = made(params, **mesh)[0]
  assert re.search(message, first.problem), first.problem


def test_a_batch_that_does_not_divide_is_reported(params):
  first = made(params, batch=100, data=-1)[0]
  assert 'batch_size=100 does not split' in first.problem
  assert 'a multiple of 256' in first.problem


def test_a_batch_is_per_chip(params):
  (one,) = made(params, chips.parse('tpu7x:4x4x4'), data=-1, batch=128)
  assert one.with_batch(4, chips.parse('tpu7x:4x4x4')).config.batch_size == 256


@pytest.mark.long
def test_other_tasks_have_layouts_too():
  other = base.train('text_encoder')
  other.batch_size = 256
  other.model.depth = 1
  params, found = candidates.shapes(other), []
  for ways in (1, 4, 16):
    other.mesh.update(data=-1, tensor=ways)
    found += candidates.make('', other, POD, params)
  assert not found[0].problem and not found[1].problem
  assert 'model.remat' not in found[0].layout()
  assert 'mesh.tensor=16 does not divide config.model.heads=8' in (
    found[2].problem
  )


def test_slices_of_tpus_are_joined_along_data(params):
  pod = chips.parse('v5e:8x8@4')
  fsdp, hybrid = (made(params, pod, fsdp=-1, slices=n)[0] for n in (1, 2))
  assert (fsdp.config.mesh.slices, fsdp.config.mesh.fsdp) == (4, 64)
  assert candidates.different([fsdp, hybrid]) == [fsdp]
