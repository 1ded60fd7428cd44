"""Ceilings are of the device, not of the system around it."""

import os

import jax
import pytest

from sana_jax.analysis import device

pytestmark = pytest.mark.fast


def test_a_copy_takes_no_new_memory(monkeypatch):
  places = []

  def once(f):
    for _ in range(3):
      places.append(jax.block_until_ready(f()).unsafe_buffer_pointer())
    return 1.0

  monkeypatch.setattr(device, 'best_seconds', once)
  assert device.copy_rate() == 2 * 2**28  # Read and written.
  assert len(set(places)) == 1


@pytest.mark.parametrize(
  'usable, cores', [({0, 1, 2, 3}, '4 cores'), ({2}, '1 of 4 cores')]
)
def test_the_name_of_a_cpu_has_its_usable_cores(monkeypatch, usable, cores):
  monkeypatch.setattr(os, 'cpu_count', lambda: 4)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: usable)
  assert device.name.__wrapped__().endswith(f', {cores})')
