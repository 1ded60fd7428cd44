"""No tokenizer runs code, by the Python API or by a command.

Each folder is one that transformers would ask about on stdin, or import from;
stdin answers y, and whatever runs leaves a file, the canary.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.launch import cli
from sana_jax.text import tokenizer as tokenizers
from sana_jax.weights import exchange

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests/golden/tiny_sana'
AUTO_MAPS = (
  {'AutoTokenizer': ['evil.Evil', 'evil.Evil']},
  {'AutoTokenizer': [None, 'evil.Evil']},
  ['evil.Evil', 'evil.Evil'],
  {'AutoTokenizer': ['org/model--evil.Evil', None]},
  'evil.Evil',
)
# Jinja that takes for ever, or leaves its sandbox, if it is ever rendered.
TEMPLATES = (
  '{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}'
  '{% endfor %}',
  "{{ ''.__class__.__mro__[1].__subclasses__() }}",
  '{{ "x" * 10**12 }}',
  '{{' * 50_000,
)
FIELDS = (
  {'tokenizer_class': 'Evil'},
  {'tokenizer_class': 'evil.Evil'},
  {'tokenizer_class': 'LlamaTokenizer'},
  {'tokenizer_class': None},
  {'tokenizer_class': ['GemmaTokenizer']},
  {'tokenizer_class': 'os.system'},
  {'model_max_length': 'x'},
  {'model_max_length': -1},
  {'pad_token': None},
  {'bos_token': 7},
  {'eos_token': {'content': None}},
  {'unk_token': ''},
  {'bos_token': 'absent'},
  {'pad_token': {'content': '<pad>', 'special': 1}},
  {'padding_side': 'both'},
  {'truncation_side': 'left'},
  {'split_special_tokens': True},
  {'extra_special_tokens': 10**9},
  {'extra_special_tokens': ['x'] * 20_000},
  {'additional_special_tokens': [{'content': 'y' * 5_000}]},
  {'added_tokens_decoder': {'5': {'content': 'a'}, '6': {'content': 'a'}}},
  {'added_tokens_decoder': {str(10**9): {'content': 'zebra'}}},
  {'added_tokens_decoder': {'x': {'content': 'zebra'}}},
  {'added_tokens_decoder': [1]},
  {'added_tokens_decoder': None},
  {'added_tokens_decoder': {'0': {'content': '<pad>', 'special': 'yes'}}},
)
IGNORED = (
  {'tokenizer_file': '/etc/hostname'},
  {'vocab_file': '/etc/hostname'},
  {'gguf_file': 'evil.gguf'},
  {'encode': 1},
  {'init_inputs': [1, 2]},
  {'name_or_path': 'org/model'},
  {'fast_tokenizer_files': ['../x.json']},
  {'sp_model_kwargs': {'enable_sampling': True}},
  {'__class__': 'Evil'},
  {'pad_token': {'content': '<pad>', '__class__': 1}},
  {'fix_mistral_regex': True},
  {'model_input_names': ['x']},
  *({'chat_template': template} for template in TEMPLATES),
)
# Takes a backtracking engine 2^40 steps on a row of as.
REDOS = {'Regex': '(a|a|aa)+$'}


@pytest.fixture
def canary(tmp_path):
  return tmp_path / 'canary'


@pytest.fixture
def model(tmp_path, canary):
  """A copy of the folder, with code beside each of its parts."""
  folder = shutil.copytree(GOLDEN, tmp_path / 'model')
  code = f'open({str(canary)!r}, "w").close()\n'
  for part in ('.', 'tokenizer', 'text_encoder'):
    for name in ('evil', 'tokenizer', 'modeling', '__init__', 'sitecustomize'):
      (folder / part / f'{name}.py').write_text(
        code + 'from transformers import GemmaTokenizer as Evil\n'
      )
  (folder / 'tokenizer/config.json').write_text(
    json.dumps({'model_type': 'evil', 'auto_map': {'AutoConfig': 'evil.Evil'}})
  )
  return folder


@pytest.fixture(autouse=True, scope='module')
def imported():
  """What is imported at first takes longer than an input may."""
  tokenizers.load(GOLDEN / 'tokenizer')


@pytest.fixture(autouse=True)
def yes(monkeypatch, tmp_path):
  """Stdin answers every question with y."""
  (tmp_path / 'stdin').write_text('y\n' * 100)
  with open(tmp_path / 'stdin') as stdin:
    monkeypatch.setattr(sys, 'stdin', stdin)
    yield


def edit(model, file='tokenizer_config.json', **changes):
  path = model / 'tokenizer' / file
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize('auto_map', AUTO_MAPS, ids=str)
@pytest.mark.parametrize('name', ['Evil', 'GemmaTokenizer'])
def test_a_tokenizer_with_code_of_its_own_is_refused(
  model, canary, hostile, auto_map, name
):
  edit(model, auto_map=auto_map, tokenizer_class=name)
  with hostile.bounded(), pytest.raises(UserError, match='auto_map'):
    tokenizers.load(model / 'tokenizer')
  assert not canary.exists()


def test_stdin_is_not_asked_by_a_process(model, canary):
  edit(model, auto_map=AUTO_MAPS[0], tokenizer_class='Evil')
  code = (
    'import sys; from sana_jax.text import tokenizer; '
    'tokenizer.load(sys.argv[1])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(model / 'tokenizer')],
    input='y\n' * 9,
    text=True,
    capture_output=True,
    check=False,
    cwd=model,
    timeout=60,
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONSAFEPATH': '1'},
  )
  assert done.returncode == 1 and 'auto_map is' in done.stderr
  assert done.stdout == ''
  assert not canary.exists()


def arguments(command, model, tmp_path):
  """A command line that reads the model."""
  return {
    'sample': ['--model', model, '--prompt', 'a', '--out', tmp_path / 'out'],
    'evaluate': ['--model', model, '--per-kind', 1],
    'demo': ['--model', model, '--port', 0],
    'convert': [
      '--from',
      model,
      '--to',
      tmp_path / 'out',
      '--format',
      'diffusers',
    ],
    'train': [
      '--config',
      'shapes:quick',
      '--workdir',
      tmp_path / 'out',
      f'--config.text_encoder={model}',
      f'--config.autoencoder={model}',
      f'--config.data.path={tmp_path / "data"}',
      '--config.data.size_px=16',
    ],
  }[command]


@pytest.mark.long
@pytest.mark.parametrize(
  'command',
  [
    'sample',
    'evaluate',
    'demo',
    'convert',
    pytest.param('train', marks=pytest.mark.slow),
  ],
)  # Imports for seconds.
def test_no_command_runs_code_of_a_tokenizer(
  model, canary, tmp_path, capsys, command
):
  edit(model, auto_map=AUTO_MAPS[0], tokenizer_class='Evil')
  code = cli.main([command, *map(str, arguments(command, model, tmp_path))])
  out, err = capsys.readouterr()
  assert code == 2, err
  assert 'auto_map' in err and 'Traceback' not in err
  assert 'model' not in out  # Neither a question nor a report.
  assert not (tmp_path / 'out/model_index.json').exists()
  assert not canary.exists()


@pytest.mark.long
def test_no_function_runs_code_of_a_tokenizer(model, canary, tmp_path):
  edit(model, auto_map=AUTO_MAPS[0], tokenizer_class='Evil')
  with pytest.raises(UserError, match='auto_map'):
    Pipeline.from_pretrained(model, 'float32')
  with pytest.raises(UserError, match='auto_map'):
    exchange.write(exchange.open_source(str(model)), tmp_path / 'out', 'orbax')
  assert not (tmp_path / 'out').exists()
  assert not canary.exists()


@pytest.mark.parametrize('changes', FIELDS, ids=lambda x: str(x)[:60])
def test_a_field_of_another_type_or_size_is_refused(
  model, canary, hostile, changes
):
  edit(model, **changes)
  with hostile.bounded(), pytest.raises(UserError) as caught:
    tokenizers.load(model / 'tokenizer')
  assert next(iter(changes)) in str(caught.value) or 'added token' in str(
    caught.value
  )
  assert not canary.exists()


@pytest.mark.parametrize('changes', IGNORED, ids=lambda x: str(x)[:60])
def test_a_field_that_is_not_used_changes_nothing(
  model, canary, hostile, changes
):
  edit(model, **changes)
  for name in (
    'chat_template.jinja',
    'added_tokens.json',
    'tokenizer.model',
    'special_tokens_map.json',
    'tokenizer.gguf',
  ):
    (model / 'tokenizer' / name).write_text('{"pad_token": "{{ 7*7 }}"')
  with hostile.bounded():
    got = tokenizers.load(model / 'tokenizer')
  want = tokenizers.load(GOLDEN / 'tokenizer')
  assert got.backend_tokenizer.to_str() == want.backend_tokenizer.to_str()
  assert not canary.exists()


@pytest.mark.parametrize(
  'changes',
  [
    {'normalizer': {'type': 'Replace', 'pattern': REDOS, 'content': ''}},
    {
      'pre_tokenizer': {
        'type': 'Split',
        'pattern': REDOS,
        'invert': False,
        'behavior': 'Isolated',
      }
    },
    {'decoder': {'type': 'Replace', 'pattern': REDOS, 'content': ''}},
  ],
)
def test_no_regular_expression_of_a_file_is_used(model, hostile, changes):
  edit(model, 'tokenizer.json', **changes)
  with hostile.bounded():
    got = tokenizers.load(model / 'tokenizer')
    ids = got.encode('a' * 5_000 + '!')
  assert ids == tokenizers.load(GOLDEN / 'tokenizer').encode('a' * 5_000 + '!')


@pytest.mark.parametrize('file', ['tokenizer.json', 'tokenizer_config.json'])
@pytest.mark.parametrize('kind', ['fifo', 'zeros', 'folder', 'dangling'])
def test_what_is_no_file_is_refused_at_once(model, hostile, file, kind):
  path = model / 'tokenizer' / file
  path.unlink()
  {
    'fifo': lambda: os.mkfifo(path),
    'folder': path.mkdir,
    'zeros': lambda: path.symlink_to('/dev/zero'),
    'dangling': lambda: path.symlink_to('absent'),
  }[kind]()
  with hostile.bounded(), pytest.raises(UserError, match=file):
    tokenizers.load(model / 'tokenizer')
