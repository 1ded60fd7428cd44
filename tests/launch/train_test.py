"""sana-jax train: valid configs, and errors of invalid ones."""

import contextlib
import functools
import io
import json
import logging
import re
import shutil

import pytest

pytestmark = pytest.mark.long

TINY = [
  f'--config.{setting}'
  for setting in (
    'num_steps=2',
    'model.width=16',
    'model.depth=1',
    'model.heads=2',
    'model.kv_heads=1',
    'model.hidden=16',
    'model.head_dim=8',
    'text.length=320',
    'text.examples=16',
    'optimizer.warmup_steps=1',
    'log_every_steps=1',
  )
]
USERS = """
from sana_jax import config as base

def get_config(arg=''):
  config = base.train('text_encoder')
  {line}
  return config
"""


def tiny_run(workdir, *more, config='shapes_text_encoder'):
  """Arguments of a tiny run."""
  return [
    'train',
    f'--config={config}',
    f'--workdir={workdir}',
    *TINY,
    *more,
  ]


@pytest.fixture
def train(tmp_path):
  """Arguments of a tiny run in a new folder."""
  return functools.partial(tiny_run, tmp_path / 'run')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(workdir, output, log) of a finished run."""
  from sana_jax.launch import cli

  workdir = tmp_path_factory.mktemp('train') / 'run'
  with (
    pytest.MonkeyPatch.context() as patch,
    contextlib.redirect_stdout(io.StringIO()) as out,
    contextlib.redirect_stderr(io.StringIO()) as err,
  ):
    # As in a process of its own: without the handlers of pytest.
    patch.setattr(logging.getLogger(), 'handlers', [])
    code = cli.main(tiny_run(workdir))
  assert code == 0, err.getvalue()
  return workdir, out.getvalue(), err.getvalue()


def test_a_run_ends_with_a_model(finished):
  workdir, *_ = finished
  assert (workdir / 'model/text_encoder/model.safetensors').is_file()
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2]


def test_its_log_has_only_the_expected_lines(finished):
  _, out, err = finished
  assert out == ''
  lines = [
    line.partition(' ')[2]
    for line in err.splitlines()
    if 'step 1/2' not in line
  ]  # Logged only if the first step took seconds.
  patterns = (
    r'[\d,]+ parameters: encoder [\d,]+, look_back [\d,]+\.',
    r'text_encoder: from step 0 to 2\.',
    r'Compiled the step in .*',
    r'step 2/2  loss .* images/s, 00:00 left',
    r'The model is in .*/run/model\.',
  )
  assert len(lines) == len(patterns), err
  assert all(map(re.fullmatch, patterns, lines)), err


def test_another_config_in_the_same_workdir_is_refused(finished, refused):
  workdir, *_ = finished
  # A probe and the lock come and go in the workdir itself.
  files = lambda: {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  before = files()
  message = refused(*tiny_run(workdir, '--config.batch_size=16'))
  assert message.key == '--workdir' and str(workdir) in message
  assert message.error.value == ['batch_size']
  assert re.search('batch_size .*8 .*16 ', message)
  assert files() == before


@pytest.mark.parametrize(
  'override, key',
  [
    ('--config.batch_sise=8', 'batch_sise'),
    ('--config.batch_size=x', 'batch_size'),
    ('--config.batch_size=12', 'batch_size'),
    ('--config.seed=-1', 'seed'),
    ('--config.model.heads=3', 'model.width'),
    ('--config.optimizer.name=sgd', 'optimizer.name'),
    ('--config.optimizer.warmup_steps=9', 'optimizer.warmup_steps'),
    ('--config.mesh.data=3', 'mesh'),
    ('--config.text.vocabulary=10', 'text.vocabulary'),
    ('--config.text.length=8', 'text.length'),
    ('--config.kernels.glumb_conv=triton', 'kernels.glumb_conv'),
    ('--config.task=sana', 'flow.caption_dropout'),
    ('--config.watch.stall_minutes=-1', 'watch.stall_minutes'),
    ('--config.watch.divergence_factor=.5', 'watch.divergence_factor'),
    ('--config.keep_every_steps=750', 'keep_every_steps'),
    ('--config.checkpoint_cache=gs://b', 'checkpoint_cache'),
    ('--profile=5', '--profile'),
    ('--profile=0:2', '--profile'),
    ('--profile=2:2', '--profile'),
    ('--profile=2:4', '--profile'),
    ('--cpu-devices=0', '--cpu-devices'),
    ('--confg.seed=1', '--confg.seed'),
  ],
)
def test_a_bad_value_is_reported_before_anything_is_written(
  override, key, train, refused, tmp_path
):
  assert refused(*train(override)).key == key
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'changes, key',
  [([], 'autoencoder'), (['--config.autoencoder=/no/such'], 'model')],
)
def test_the_transformer_needs_the_other_models(
  changes, key, refused, tmp_path
):
  argv = 'train', '--config', 'shapes', '--workdir', tmp_path / 'run'
  assert refused(*argv, *changes).key == key
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'line, key, value',
  [
    ('config.num_step = 3', '--config', ('AttributeError', 6)),
    ('config.num_steps = "3"', '--config', ('TypeError', 6)),
    ('import no_such_package', '--config', ('ModuleNotFoundError', 6)),
    ('config.num_steps = = 3', '--config', ('SyntaxError', 6)),
    ('return None', '--config', type(None)),
    ('config = config.unlock(); config.extra = 1', 'extra', None),
    ('config.data.size_px = -1', 'data.size_px', -1),
  ],
)
def test_a_mistake_in_a_users_config_is_reported_with_its_line(
  line, key, value, train, refused, tmp_path
):
  file = tmp_path / 'mine.py'
  file.write_text(USERS.format(line=line))
  message = refused(*train(config=file))
  assert (message.key, message.error.value) == (key, value)
  if type(value) is tuple:
    assert f'{file} ' in message and 'line 6 ' in message
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'name, value', [('none.py',) * 2, ('sapes',) * 2, ('shapes:fast', 'fast')]
)
def test_a_missing_config_is_reported(name, value, train, refused):
  message = refused(*train(config=name))
  assert (message.key, message.error.value) == ('--config', value)


def test_a_config_without_get_config_is_reported(train, refused, tmp_path):
  (tmp_path / 'mine.py').write_text('num_steps = 3\n')
  message = refused(*train(config=tmp_path / 'mine.py'))
  assert 'mine.py' in message and 'get_config' in message


def test_an_invalid_workdir_is_reported(train, refused, tmp_path):
  (tmp_path / 'run').write_text('mine')
  message = refused(*train())
  assert message.key == '--workdir'
  assert (tmp_path / 'run').read_text() == 'mine'


# Threads of orbax may fail after the error that is reported.
@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnhandledThreadExceptionWarning',
  'ignore::pytest.PytestUnraisableExceptionWarning',
)
def test_a_full_disk_stops_with_a_one_line_error(
  finished, train, cli, full_disk, tmp_path
):
  del finished  # The same programs are in the cache, which takes no others.
  with full_disk(8 * 1024):
    code, out, err = cli(*train())
  assert (code, out) == (75, ''), err  # There may be room again later.
  errors = [x for x in err.splitlines() if x.startswith('sana-jax: error:')]
  assert len(errors) == 1 and '--workdir' in errors[0], err
  assert not (tmp_path / 'run/model').exists()


@pytest.mark.parametrize('workdir', ['file', 'file/below', '/proc/x'])
def test_the_workdir_is_checked_before_any_work(
  workdir, refused, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('text')
  message = refused(
    'train',
    '--config',
    'shapes',
    '--workdir',
    workdir,
    '--config.data.path=nowhere',
  )
  assert message.key == '--workdir'
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_a_run_has_the_model_it_starts_from_and_resumes_without_it(
  finished, tmp_path, cli, refused
):
  model = tmp_path / 'model'
  shutil.copytree(finished[0] / 'model', model)
  workdir = tmp_path / 'run'
  others = [word for word in TINY if '.model.' not in word]
  run = lambda steps, *more: [
    *('train', '--config=shapes_text_encoder', f'--workdir={workdir}'),
    *(*others, f'--config.init_from={model}', f'--config.num_steps={steps}'),
    *more,
  ]
  found = refused(*run(2, '--config.model.depth=9'))
  assert (found.key, found.error.allowed) == ('model.depth', (1,))
  assert cli(*run(2))[0] == 0
  stored = json.loads((workdir / 'config.json').read_text())
  assert (stored['model']['width'], stored['model']['depth']) == (16, 1)
  shutil.rmtree(model)
  assert cli(*run(3))[0] == 0
  assert json.loads((workdir / 'config.json').read_text()) == {
    **stored,
    'num_steps': 3,
  }
