"""Measured rates are stored by kind and replace the data sheet's."""

import jax
import pytest

from sana_jax.analysis import ceilings, chips
from sana_jax.launch import cli
from sana_jax.tools.plan import tables


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
  path = tmp_path / 'kept' / 'ceilings.json'
  monkeypatch.setattr(ceilings, 'FILE', str(path))
  return path


RATES = {
  'flops': 800e12,
  'memory_rate': 4e12,
  'date': '2026-01-02',
  'devices': 1,
}


def test_measured_rates_take_the_place_of_the_data_sheet():
  h200 = chips.get('h200')
  assert ceilings.measured(h200) == (h200, '')
  ceilings.write('NVIDIA H200', RATES)
  ceilings.write('cpu', RATES)
  chip, date = ceilings.measured(h200)
  assert (chip.flops, chip.memory_rate, date) == (800e12, 4e12, '2026-01-02')
  assert chip.link_rate == h200.link_rate  # One device has no others.
  assert 'rates measured on one of the h200' in tables.ceilings(chip)
  assert 'the data sheet of the h200' in tables.ceilings(h200)
  assert ceilings.measured(chips.get('v5e'))[1] == ''


def test_a_device_that_is_half_a_chip_counts_twice():
  ceilings.write('TPU7x', RATES)
  assert ceilings.measured(chips.get('tpu7x'))[0].flops == 2 * 800e12


def test_a_device_that_is_in_no_table_has_its_measured_rates():
  cpu = ceilings.device_of('cpu', RATES | {'link_rate': 1e9})
  assert (cpu.flops, cpu.memory_rate, cpu.link_rate) == (800e12, 4e12, 1e9)
  assert cpu.of_device() == cpu and chips.of_kind('cpu') is None


@pytest.mark.parametrize(
  'damage', [b'{', b'', b'[]', b'\xff', b'[' * 10**5, b'1' * 5000]
)
def test_a_damaged_file_is_ignored(file, damage):
  ceilings.write('NVIDIA H200', RATES)
  file.write_bytes(damage)
  assert ceilings.measured(chips.get('h200'))[1] == ''


@pytest.mark.parametrize(
  'damage',
  [
    {'flops': 'fast'},
    {'flops': 0},
    {'link_rate': [1]},
    {'date': 3},
    {'devices': None},
  ],
)
def test_invalid_rates_are_ignored(file, damage):
  ceilings.write('cpu', RATES)
  ceilings.write('NVIDIA H200', RATES | damage)
  assert ceilings.read() == {'cpu': RATES}
  file.write_text('{"NVIDIA H200": 5}')
  assert ceilings.measured(chips.get('h200'))[1] == ''


def test_text_compares_with_the_data_sheet():
  assert 'matmul: 800 TFLOP/s (81% of the data sheet)' in (
    ceilings.text('NVIDIA H200', RATES)
  )
  assert ceilings.text('cpu', RATES).count('data sheet') == 0


@pytest.mark.slow
def test_local_devices_are_measured(file, capsys):
  assert cli.main(['plan', '--calibrate']) == 0
  kept = ceilings.read()[jax.devices()[0].device_kind]
  assert min(kept[k] for k in ('flops', 'memory_rate', 'link_rate')) > 0
  assert 'TFLOP/s' in capsys.readouterr().out
