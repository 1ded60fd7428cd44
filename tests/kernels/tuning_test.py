"""Measured tile sizes are read; a shape is rounded up to powers of two."""

import json

import jax
import jax.numpy as jnp
import pytest

from sana_jax.kernels import relu_linear_attention, tuning

pytestmark = pytest.mark.fast


@pytest.fixture
def tuned(tmp_path, monkeypatch):
  """Writes the table of a kind of device."""
  monkeypatch.setattr(tuning, 'FOLDER', tmp_path)
  tuning.table.cache_clear()

  def write(kind, table):
    (tmp_path / f'{tuning.file_name(kind)}.json').write_text(json.dumps(table))

  yield write
  tuning.table.cache_clear()


def chunks(n):
  """Number of forward chunks of `xla_chunked` for n tokens."""
  x = jnp.ones((1, n, 2, 4))
  jaxpr = jax.make_jaxpr(
    lambda x: relu_linear_attention(x, x, x, implementation='xla_chunked')
  )(x)
  found = set()

  def walk(jaxpr):
    for e in jaxpr.eqns:
      if e.primitive.name == 'scan':
        found.add(e.params['length'])
      for value in e.params.values():
        inner = getattr(value, 'jaxpr', value)
        if hasattr(inner, 'eqns'):
          walk(inner)

  walk(jaxpr.jaxpr)
  (count,) = found
  return count


def test_a_bucket_is_the_next_power_of_two():
  assert tuning.bucket(False, (1, 3, 1024, 1025), jnp.bfloat16) == (
    'forward bfloat16 1x4x1024x2048'
  )


def test_a_backend_uses_values_measured_for_this_device_and_shape(tuned):
  assert chunks(2048) == 2  # Its default is 1024.
  tuned(
    'cpu',
    {
      'relu_linear_attention': {
        'xla_chunked': {'forward float32 1x2048x2x4': {'chunk': 256}}
      }
    },
  )
  tuning.table.cache_clear()
  assert chunks(2048) == 8 and chunks(1500) == 6
  assert chunks(2049) == 3  # Another bucket.


@pytest.mark.parametrize(
  'damage',
  [
    b'{',
    b'',
    b'[]',
    b'\xff',
    b'[' * 10**5,
    b'1' * 5000,
    b'{"x": {"y": []}}',
    b'{"relu_linear_attention": {"xla_chunked": '
    b'{"forward float32 1x2048x2x4": {"chunk": -256}}}}',
  ],
)
def test_a_damaged_table_is_ignored_with_a_warning(
  tuned, tmp_path, damage, caplog
):
  (tmp_path / f'{tuning.file_name("cpu")}.json').write_bytes(damage)
  assert chunks(2048) == 2
  assert 'use default tile sizes' in caplog.text


def test_another_device_another_type_and_the_other_pass_have_their_own(tuned):
  key = 'forward float32 1x2048x2x4'
  rows = {
    'xla_chunked': {
      key.replace('forward', 'backward'): {'chunk': 256},
      key.replace('float32', 'bfloat16'): {'chunk': 256},
    }
  }
  tuned('cpu', {'relu_linear_attention': rows})
  tuned(
    'NVIDIA H200',
    {'relu_linear_attention': {'xla_chunked': {key: {'chunk': 256}}}},
  )
  assert chunks(2048) == 2


def test_explicit_values_override_measured_ones(tuned):
  tuned(
    'cpu',
    {
      'relu_linear_attention': {
        'xla_chunked': {'forward float32 1x2048x2x4': {'chunk': 256}}
      }
    },
  )
  with tuning.using(False, chunk=512):
    assert chunks(2048) == 4
    with tuning.using(True, chunk=128):
      assert chunks(2048) == 4
  with tuning.using(False):
    assert chunks(2048) == 2


def test_files_are_named_after_devices():
  assert tuning.file_name('NVIDIA H200') == 'nvidia-h200'
  assert tuning.file_name('TPU v5 lite') == 'tpu-v5-lite'


def test_every_shipped_table_names_ops_backends_and_values_that_exist():
  from sana_jax.tools.bench.ops import tune
  from sana_jax.tools.bench.ops.cases import OPS

  for path in tuning.FOLDER.glob('*.json'):
    for op, backends in json.loads(path.read_text()).items():
      for backend, rows in backends.items():
        allowed = tune.candidates(op, backend)
        assert op in OPS and all(values in allowed for values in rows.values())
