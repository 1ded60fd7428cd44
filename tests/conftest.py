"""Every test sees eight CPU devices; none is skipped."""

import functools
import importlib.util
import itertools
import os
import pathlib
import zlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import jax
import jaxtyping
import numpy as np
import pytest
import shells

from sana_jax import compilation_cache

# Tests compile much and compute little: this takes a third of the time. XLA
# stops at a flag that it doesn't know, and the newest doesn't know the last.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_parallel_codegen_split_count=1'
    + ' --xla_cpu_use_fusion_emitters=false' * (jax.__version_info__ < (0, 11)),
  ]
)
jax.config.update('jax_num_cpu_devices', 8)
# Compiled programs are kept between runs of the suite.
compilation_cache.enable(
  os.path.expanduser(
    os.environ.get('SANA_JAX_TEST_CACHE', '~/.cache/sana_jax/tests')
  ),
  at_least_seconds=0,
)

# Checks the shapes of signatures, in CI only: it costs a fifth of the time.
if os.environ.get('SANA_JAX_CHECK_SHAPES'):
  jaxtyping.install_import_hook('sana_jax', 'beartype.beartype')

# Without PyTorch there is nothing to compare with: `launch/test -m parity`
# installs it.
collect_ignore_glob = (
  [] if importlib.util.find_spec('torch') else ['tools/parity/*']
)
# Nor is there a TPU compiler without libtpu, from the extra `tpu`.
if not importlib.util.find_spec('libtpu'):
  collect_ignore_glob += [
    'kernels/compile_test.py',
    'kernels/compile_conv3x3_test.py',
    'kernels/compile_glumb_conv_test.py',
  ]
if not importlib.util.find_spec('gcsfs'):  # Of the extra `gcs`.
  collect_ignore_glob += ['training/bucket_test.py']
if os.environ.get('SANA_JAX_CHECK_SHAPES'):  # It gives wrong types on purpose.
  collect_ignore_glob += ['inference/call_types_test.py']
if not importlib.util.find_spec('tensorboard'):  # Of the extra `train`.
  collect_ignore_glob += ['training/tensorboard_test.py']
ALLOWED_SKIPS = 0  # But for tests of chips that are not here.


@pytest.fixture(autouse=True)
def same_draws_in_each_run(request, monkeypatch):
  """Seeds unseeded random generators with the name of the test.

  SANA_JAX_TEST_SEED=1 launch/test draws other numbers, for which bounds must
  hold too.
  """
  name = os.environ.get('SANA_JAX_TEST_SEED', '') + request.node.nodeid
  seeds = itertools.count(zlib.crc32(name.encode()))
  generator = np.random.default_rng
  monkeypatch.setattr(
    np.random,
    'default_rng',
    lambda seed=None: generator(next(seeds) if seed is None else seed),
  )


@pytest.fixture(scope='session')
def toy():
  """The module training/toy.py, which is a script as well."""
  path = pathlib.Path(__file__).with_name('training') / 'toy.py'
  spec = importlib.util.spec_from_file_location('toy', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def cli(capsys):
  """Runs a command; returns (exit code, stdout, stderr)."""
  from sana_jax.launch import cli

  def run(*argv):
    capsys.readouterr()
    code = cli.main([str(a) for a in argv])
    return code, *capsys.readouterr()

  return run


@pytest.fixture(scope='session')
def page_shell(tmp_path_factory):
  """Runs lines in the activated environment of a fresh clone."""
  clone, first = shells.fresh_clone(tmp_path_factory.mktemp('pages'))
  shells.shell('python3 -m venv .venv', clone, first)
  return functools.partial(shells.run_in, clone)


def pytest_sessionfinish(session):
  """A test that is skipped without anybody noticing is a lost test."""
  reporter = session.config.pluginmanager.get_plugin('terminalreporter')
  if reporter is None:  # A worker; the main process counts.
    return
  skipped = [
    r
    for r in reporter.stats.get('skipped', ())
    if 'needs a ' not in str(r.longrepr)
  ]
  if len(skipped) > ALLOWED_SKIPS:
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(items):
  platform = jax.default_backend()
  for item in items:
    for chip in ('gpu', 'tpu'):
      if item.get_closest_marker(chip) and platform != chip:
        item.add_marker(pytest.mark.skip(reason=f'needs a {chip}'))
