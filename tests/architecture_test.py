"""Imports point one way, and files and functions stay readable."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('sana_jax', 'kernels', 'configs', 'launch')
FILES = [p for top in (*PACKAGES, 'tests')
         for p in sorted((ROOT / top).rglob('*.py'))]
# What of sana_jax each part may use besides itself, as prefixes of modules.
COMMON = ('sana_jax.typing', 'sana_jax.errors', 'sana_jax.files',
          'sana_jax.fields', 'sana_jax.printable', 'sana_jax.version')
KERNELS, MODELS = 'sana_jax.kernels', 'sana_jax.models'
ALLOWED = {
  'kernels': (),
  'sana_jax/models': (*COMMON, KERNELS, 'sana_jax.sharding.activations'),
  'sana_jax/diffusion': COMMON,
  'sana_jax/objectives': (
    *COMMON, 'sana_jax.diffusion', 'sana_jax.sharding.rules'),
  'sana_jax/optim': COMMON,
  'sana_jax/sharding': COMMON,
  'sana_jax/text': COMMON,
}
# What a part that uses much else must not use.
FORBIDDEN = {
  'sana_jax/training': tuple(f'sana_jax.{part}' for part in (
    'evaluation', 'inference', 'models', 'parity', 'planning', 'tasks', 'text',
    'weights')),
  'sana_jax/tasks': ('sana_jax.planning', 'sana_jax.benchmark',
                     'sana_jax.parity'),
}
LAST = ('sana_jax.configs', 'sana_jax.launch')  # Nobody builds on them.


def name(path):
  """'kernels/glumb_conv/xla.py' -> 'sana_jax.kernels.glumb_conv.xla'."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  parts = parts if parts[0] in ('sana_jax', 'tests') else ('sana_jax', *parts)
  return '.'.join(p for p in parts if p != '__init__')


def imports(path):
  """Every module that a file imports anywhere, functions included."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative imports hide where they point'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        yield full if full in MODULES else node.module


MODULES = {name(p) for p in FILES}


def within(module, prefixes):
  return any(module == p or module.startswith(p + '.') for p in prefixes)


@pytest.mark.parametrize('part', ALLOWED)
def test_a_part_uses_only_what_lies_below_it(part):
  files = [p for p in FILES if p.is_relative_to(ROOT / part)]
  assert files
  own = name(ROOT / part)
  wrong = [
    f'{path.relative_to(ROOT)} imports {module}'
    for path in files for module in imports(path)
    if within(module, ['sana_jax'])
    and not within(module, [own, *ALLOWED[part]])]
  assert not wrong


@pytest.mark.parametrize('part', FORBIDDEN)
def test_a_part_uses_nothing_of_what_lies_above_it(part):
  files = [p for p in FILES if p.is_relative_to(ROOT / part)]
  assert files
  wrong = [f'{path.relative_to(ROOT)} imports {module}'
           for path in files for module in imports(path)
           if within(module, FORBIDDEN[part])]
  assert not wrong


def test_only_commands_and_tests_use_configs_and_commands():
  wrong = [
    f'{path.relative_to(ROOT)} imports {module}'
    for path in FILES if path.relative_to(ROOT).parts[0] in (
      'sana_jax', 'kernels', 'configs')
    for module in imports(path) if within(module, LAST)]
  assert not wrong


def test_nobody_imports_the_top_folders_by_their_own_name():
  # Hugging Face has a package called kernels.
  wrong = [f'{path.relative_to(ROOT)} imports {module}'
           for path in FILES for module in imports(path)
           if within(module, ['kernels', 'configs', 'launch'])]
  assert not wrong


def test_the_reader_of_imports_sees_them():
  assert 'sana_jax.kernels.glumb_conv' in set(
    imports(ROOT / 'sana_jax' / 'models' / 'mix_ffn.py'))
  assert 'sana_jax.weights.table' in set(
    imports(ROOT / 'sana_jax' / 'weights' / 'folder.py'))
  # Inside a function:
  assert 'sana_jax.inference.pipeline' in set(
    imports(ROOT / 'sana_jax' / '__init__.py'))


def test_no_file_is_longer_than_400_lines():
  long = {str(p.relative_to(ROOT)): n for p in FILES
          if (n := len(p.read_text(encoding='utf-8').splitlines())) > 400}
  assert not long


def test_every_function_is_shorter_than_70_lines():
  long = []
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines >= 70:
          long.append(f'{path.relative_to(ROOT)}: {node.name}, {lines} lines')
  assert not long


def test_importing_the_package_needs_neither_torch_nor_tensorflow():
  heavy = 'torch', 'tensorflow', 'diffusers', 'transformers'
  code = ('import sana_jax, sys; sana_jax.Pipeline; '
          f'print([m for m in {heavy} if m in sys.modules])')
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout == '[]\n'


# json's own reader passes RecursionError on, and half a surrogate pair.
PARSES_ITSELF = {
  'sana_jax/files.py': 'is the reader',
  'kernels/tuning.py': 'knows nothing of sana_jax, and catches the same',
  'sana_jax/text/tokenizer.py': 'what the tokenizers library has just written',
}


def test_json_is_read_by_one_reader():
  wrong = []
  for path in FILES:
    where = str(path.relative_to(ROOT))
    if path.is_relative_to(ROOT / 'tests') or where in PARSES_ITSELF:
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Attribute | ast.ImportFrom) and re.fullmatch(
          r'json\.loads?|from json import .*', ast.unparse(node)):
        wrong.append(f'{where}:{node.lineno} {ast.unparse(node)}')
  assert not wrong
