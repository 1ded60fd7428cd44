"""Fixtures that run commands in this process or in another."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
from typing import NamedTuple

import demo_browser
import pytest

from sana_jax.analysis import ceilings, device
from sana_jax.errors import UserError
from sana_jax.launch import cli as commands
from sana_jax.tools.bench import processes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='session')
def tiny_sana():
  """Complete SANA with random weights, 32 px, compression 4."""
  return ROOT / 'tests/golden/tiny_sana'


class Refusal(str):
  """The one-line error of a command, with the UserError behind it."""

  error: UserError | None = None

  @property
  def key(self) -> str:
    """Key or flag to change."""
    return self.error.key


@pytest.fixture
def raised(monkeypatch):
  """UserErrors of the commands run so far."""
  found, inner = [], commands.run

  def recorded(argv):
    try:
      return inner(argv)
    except UserError as e:
      found.append(e)
      raise

  monkeypatch.setattr(commands, 'run', recorded)
  return found


@pytest.fixture
def refused(cli, raised):
  """Runs a command that must fail; returns its Refusal."""

  def run(*argv):
    raised.clear()
    code, out, err = cli(*argv)
    assert code == 2, err
    assert out == ''
    assert err.startswith('sana-jax: error: ')
    assert err.count('\n') == 1, err
    found = Refusal(err.removeprefix('sana-jax: error: ').strip())
    found.error = raised[0] if raised else None
    return found

  return run


@pytest.fixture
def process():
  """Runs a command in a subprocess; `file_limit` in KiB fills a disk."""

  def run(*argv, file_limit=None):
    argv = [sys.executable, '-m', 'sana_jax.launch.cli', *map(str, argv)]
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    if file_limit:
      # Otherwise truncated caches are left for other tests.
      env['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
      env['PYTHONDONTWRITEBYTECODE'] = '1'
      # Without its signal, writing beyond it fails with EFBIG, in the same
      # place as ENOSPC would.
      limit = f'trap "" XFSZ; ulimit -f {file_limit}; exec "$@"'
      argv = ['bash', '-c', limit, 'bash', *argv]
    done = subprocess.run(
      argv, cwd=ROOT, capture_output=True, text=True, check=False, env=env
    )
    return done.returncode, done.stdout, done.stderr

  return run


@pytest.fixture
def full_disk():
  """Limits files to `size` bytes: EFBIG where a full disk has ENOSPC."""

  @contextlib.contextmanager
  def limit(size):
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Not half.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
      sys.dont_write_bytecode = kept
      signal.signal(signal.SIGXFSZ, handler)

  return limit


class Server(NamedTuple):
  address: str
  process: subprocess.Popen
  log: pathlib.Path


@pytest.fixture(scope='session')
def served(tmp_path_factory):
  """Starts the demo of a model in a subprocess, at a free port."""
  with contextlib.ExitStack() as stack:

    def start(model, *flags):
      log = tmp_path_factory.mktemp('demo') / 'log'
      process = stack.enter_context(
        subprocess.Popen(
          [
            sys.executable,
            '-m',
            'sana_jax.launch.cli',
            'demo',
            '--model',
            str(model),
            '--port',
            '0',
            *flags,
          ],
          cwd=ROOT,
          stdout=subprocess.PIPE,
          stderr=stack.enter_context(log.open('w')),
          text=True,
          env=os.environ | {'PYTHONPATH': str(ROOT)},
        )
      )
      stack.callback(process.terminate)
      printed = process.stdout.readline()
      assert printed.startswith('The demo is at http://'), log.read_text()
      return Server(printed.split()[-1], process, log)

    yield start


@pytest.fixture(scope='session')
def shapes_demo(served):
  """The demo of the shipped model."""
  return served('shapes')


@pytest.fixture
def downloads(tmp_path):
  return tmp_path


@pytest.fixture
def browser(downloads):
  with demo_browser.opened(downloads) as driver:
    yield driver


@pytest.fixture
def page(browser, shapes_demo):
  """A browser with the demo's page, without errors of its scripts."""
  browser.get(shapes_demo.address)
  demo_browser.find(browser, '#prompt textarea')
  yield browser
  assert 'Traceback' not in shapes_demo.log.read_text()
  log = [x['message'] for x in browser.get_log('browser')]
  assert not [x for x in log if 'Uncaught' in x or 'Content Security' in x]


@pytest.fixture
def in_this_process(monkeypatch):
  """Sides are served here; their processes are tested with `step`."""

  class Here:
    def __init__(self, make, args):
      self.held = make(*args)

    def call(self, method, *args):
      return getattr(self.held, method)(*args)

  monkeypatch.setattr(
    processes,
    'start',
    lambda make, *args: contextlib.nullcontext(Here(make, args)),
  )


@pytest.fixture
def quick(monkeypatch):
  """Few calls a measurement."""
  monkeypatch.setattr(device, 'SECONDS', 1e-3)


@pytest.fixture
def rates(quick, monkeypatch):
  """Rates of the device that are not measured again here."""
  monkeypatch.setattr(device, 'matmul_rate', lambda dtype: 1e12)
  monkeypatch.setattr(device, 'copy_rate', lambda: 1e10)
  monkeypatch.setattr(
    ceilings, 'measure', lambda dtype: {'flops': 1e12, 'memory_rate': 1e10}
  )
