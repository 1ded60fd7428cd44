"""The table of chips against the data sheets' own figures, and its names."""

import pytest

from sana_jax.analysis import chips
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast

# TFLOP/s (dense bfloat16), memory, its GB/s, links in both directions GB/s,
# network Gbit/s: as Google's pages and NVIDIA's data sheets print them.
SHEETS = {
  'v5e': (197, 16 * 2**30, 819, 1600 / 8 * 2, 6400 / 256),
  'v5p': (459, 95 * 2**30, 2765, 1200, 50),
  'v6e': (918, 32 * 2**30, 1638, 800, 25_600 / 256),
  'tpu7x': (2307, 192 * 2**30, 7380, 1200, 100),
  'v4': (275, 32 * 2**30, 1228, 6 * 50 * 2, 50),
  # NVIDIA: sparse products are half of them; NVLink in both directions.
  'a100': (624 / 2, 80e9, 2039, 600, 200),
  'h100': (1979 / 2, 80e9, 3350, 900, 400),
  'h200': (1979 / 2, 141e9, 4800, 900, 400),
  'b200': (4500 / 2, 180e9, 8000, 1800, 400),
}


def test_every_chip_has_a_data_sheet_here():
  assert set(SHEETS) == set(chips.CHIPS)


@pytest.mark.parametrize('name', SHEETS)
def test_a_chip_has_the_values_of_its_data_sheet(name):
  tflops, memory, rate, links, network = SHEETS[name]
  chip = chips.get(name)
  assert chip.flops / 1e12 == pytest.approx(tflops, rel=1e-3)
  assert chip.memory == pytest.approx(memory, rel=1e-2)
  assert chip.memory_rate / 1e9 == rate
  assert 2 * chip.link_rate / 1e9 == links
  assert 8 * chip.network_rate / 1e9 == network


def test_half_a_chip_has_half_of_everything():
  chip = chips.get('tpu7x')
  half = chip.of_device()
  assert (half.flops, half.memory_rate) == (2307e12 / 2, 7380e9 / 2)
  assert half.usable / 2**30 == 94.75  # Reported by libtpu.
  assert chips.get('v5e').of_device() == chips.get('v5e')


def test_jax_names_lead_to_the_chip():
  assert chips.of_kind('TPU v5 lite').name == 'v5e'
  assert chips.of_kind('NVIDIA H200').name == 'h200'
  assert chips.of_kind('cpu') is None


@pytest.mark.parametrize(
  'name, shape, chips_, devices',
  [
    ('v5e:16x16', (16, 16), 256, 256),
    ('v5e:16x16@2', (16, 16), 512, 512),
    ('tpu7x:4x4x8', (4, 4, 8), 128, 256),
    ('h200:1x4x8', (1, 4, 8), 32, 32),
  ],
)
def test_a_topology_counts_chips_and_devices(name, shape, chips_, devices):
  found = chips.parse(name)
  assert (found.shape, found.chips, found.devices) == (shape, chips_, devices)


@pytest.mark.parametrize(
  'name, value, allowed',
  [
    ('v5:4x4', 'v5', 'v5e'),
    ('h300:1x1x8', 'h300', 'h200'),
    ('', '', 'v4'),
    ('v5e', 'v5e', 'v5e:4x4'),
    ('v5e:4x4x4', 'v5e:4x4x4', '2 sizes'),
    ('v5p:4x4', 'v5p:4x4', 'v5p:2x2x1'),
    ('v5e:4y4', 'v5e:4y4', '2 sizes'),
    ('h200:8', 'h200:8', 'h200:1x4x8'),
    ('h200:1x4x8@2', 'h200:1x4x8@2', 'SLICESxHOSTSxGPUS'),
    ('v5e:64x64', 'v5e:64x64', 1024),
    ('h200:1x64x8', 'h200:1x64x8', 256),
    ('v5e:0x4', 'v5e:0x4', 1),
  ],
)
def test_an_invalid_name_is_a_one_line_error(name, value, allowed):
  with pytest.raises(UserError) as error:
    chips.parse(name)
  assert (error.value.key, error.value.value) == ('topology', value)
  assert allowed in error.value.allowed
