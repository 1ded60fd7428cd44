"""Imports point one way, and files and functions stay readable."""

import ast
import configparser
import functools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('sana_jax', 'kernels', 'configs', 'launch')
FILES = [
  p for top in (*PACKAGES, 'tests') for p in sorted((ROOT / top).rglob('*.py'))
]
# What of sana_jax each part may use besides itself, as prefixes of modules.
COMMON = (
  'sana_jax.typing',
  'sana_jax.errors',
  'sana_jax.files',
  'sana_jax.fields',
  'sana_jax.keys',
  'sana_jax.tree',
  'sana_jax.printable',
  'sana_jax.version',
)
KERNELS, MODELS = 'sana_jax.kernels', 'sana_jax.models'
ALLOWED = {
  'kernels': (),
  'sana_jax/models': (*COMMON, KERNELS, 'sana_jax.sharding.activations'),
  'sana_jax/diffusion': COMMON,
  'sana_jax/objectives': (
    *COMMON,
    'sana_jax.diffusion',
    'sana_jax.optim.ema',
    'sana_jax.sharding.rules',
  ),
  'sana_jax/optim': COMMON,
  'sana_jax/sharding': COMMON,
  'sana_jax/text': COMMON,
}
# What lies below a part and is not for it, all the same.
FORBIDDEN = {
  'sana_jax/training': (MODELS, 'sana_jax.text'),
  'sana_jax/objectives': (MODELS,),
}
LAST = ('sana_jax.configs', 'sana_jax.launch')  # Nobody builds on them.
# The parts of sana_jax from the bottom to the top: each uses only itself and
# those on earlier lines. `sana_jax` itself exports the pipeline.
LAYERS = [
  line.split()
  for line in (
    'assets checkout errors typing version',
    'extras files interpreter paths printable registry seals tree',
    'compilation_cache fields kernels',
    'backends keys sharding',
    'diffusion models optim text',
    'analysis data objectives',
    'config locks',
    'training',
    'launching recipes weights',
    'configs',
    'inference',
    'comfyui evaluation',
    'tasks',
    'tools.report',
    'tools.parity',
    'tools.plots',
    'tools.plan',
    'tools.bench',
    'launch',
  )
]


def name(path):
  """'kernels/glumb_conv/xla.py' -> 'sana_jax.kernels.glumb_conv.xla'."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  parts = parts if parts[0] in ('sana_jax', 'tests') else ('sana_jax', *parts)
  return '.'.join(p for p in parts if p != '__init__')


@functools.cache
def nodes(path):
  """All nodes of a file's syntax tree."""
  return list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))


def imports(path):
  """Every module that a file imports anywhere, functions included."""
  for node in nodes(path):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # ComfyUI loads this folder under a name of its own.
      within_folder = node.level == 1 and path.parent.name == 'comfyui'
      assert node.level == 0 or within_folder, (
        f'{path}: relative imports hide where they point'
      )
      start = (name(path.parent),) if node.level else ()
      module = '.'.join((*start, *filter(None, [node.module])))
      for alias in node.names:
        full = f'{module}.{alias.name}'
        yield full if full in MODULES else module


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
    for path in files
    for module in imports(path)
    if within(module, ['sana_jax'])
    and not within(module, [own, *ALLOWED[part]])
  ]
  assert not wrong


def layer(module):
  """Index in LAYERS and name of the part that a module belongs to."""
  for index, parts in enumerate(LAYERS):
    for part in parts:
      if within(module, [f'sana_jax.{part}']):
        return index, part
  raise AssertionError(f'{module} is in no layer')


def test_imports_point_downwards():
  wrong = []
  for path in FILES:
    own = name(path)
    if path.is_relative_to(ROOT / 'tests') or own in (
      'sana_jax',
      'sana_jax.tools',
    ):
      continue
    at, part = layer(own)
    for module in imports(path):
      if within(module, ['sana_jax']) and module != 'sana_jax':
        below, other = layer(module)
        if below > at or (below == at and other != part):
          wrong.append(f'{own} imports {module}')
  assert not wrong


@pytest.mark.parametrize('part', FORBIDDEN)
def test_a_part_does_not_know_what_is_not_for_it(part):
  files = [p for p in FILES if p.is_relative_to(ROOT / part)]
  assert files
  wrong = [
    f'{path.relative_to(ROOT)} imports {module}'
    for path in files
    for module in imports(path)
    if within(module, FORBIDDEN[part])
  ]
  assert not wrong


def test_only_commands_and_tests_use_configs_and_commands():
  wrong = [
    f'{path.relative_to(ROOT)} imports {module}'
    for path in FILES
    if path.relative_to(ROOT).parts[0] in ('sana_jax', 'kernels', 'configs')
    for module in imports(path)
    if within(module, LAST)
  ]
  assert not wrong


def test_nobody_imports_the_top_folders_by_their_own_name():
  # Hugging Face has a package called kernels.
  wrong = [
    f'{path.relative_to(ROOT)} imports {module}'
    for path in FILES
    for module in imports(path)
    if within(module, ['kernels', 'configs', 'launch'])
  ]
  assert not wrong


def test_the_reader_of_imports_sees_them():
  assert 'sana_jax.kernels.glumb_conv' in set(
    imports(ROOT / 'sana_jax' / 'models' / 'mix_ffn.py')
  )
  assert 'sana_jax.weights.table' in set(
    imports(ROOT / 'sana_jax' / 'weights' / 'folder.py')
  )
  # Inside a function:
  assert 'sana_jax.inference.pipeline' in set(
    imports(ROOT / 'sana_jax' / '__init__.py')
  )


def test_every_package_is_installed():
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  listed = settings['options']['packages'].split()
  assert listed == sorted(
    {
      name(p.parent / '__init__.py')
      for p in FILES
      if not p.is_relative_to(ROOT / 'tests')
    }
  )


# Distributions whose modules have another name.
DISTRIBUTIONS = {
  'absl': 'absl-py',
  'PIL': 'pillow',
  'skimage': 'scikit-image',
  'orbax': 'orbax-checkpoint',
  'came_pytorch': 'came-pytorch',
  'tensorflow_datasets': 'tensorflow-datasets',
}


def test_every_import_is_a_declared_dependency():
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  lines = [
    settings['options']['install_requires'],
    *settings['options.extras_require'].values(),
  ]
  declared = {
    re.match(r'[\w-]*', line)[0] for text in lines for line in text.splitlines()
  }
  used = {
    module.partition('.')[0]
    for path in FILES
    if not path.is_relative_to(ROOT / 'tests')
    for module in imports(path)
  }
  used -= {*sys.stdlib_module_names, 'sana_jax'}
  assert {DISTRIBUTIONS.get(x, x) for x in used} <= declared


@pytest.mark.parametrize('isolated', [True, False])
def test_other_folders_of_a_checkout_are_no_part_of_the_package(isolated):
  """Installed, and from the checkout alone."""
  code = (
    'import importlib.util as u; '
    'print([x for x in ("sana_jax", "tests", "docs", "setup", "kernels", '
    '"launch.cli", "configs.shapes") if u.find_spec(f"sana_jax.{x}")])'
  )
  done = subprocess.run(
    [sys.executable, *['-S'] * isolated, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  assert done.stdout == "['kernels', 'launch.cli', 'configs.shapes']\n"


def test_no_file_is_longer_than_400_lines():
  long = {
    str(p.relative_to(ROOT)): n
    for p in FILES
    if (n := len(p.read_text(encoding='utf-8').splitlines())) > 400
  }
  assert not long


def test_every_function_is_shorter_than_70_lines():
  long = []
  for path in FILES:
    for node in nodes(path):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines >= 70:
          long.append(f'{path.relative_to(ROOT)}: {node.name}, {lines} lines')
  assert not long


def test_importing_the_package_needs_neither_torch_nor_tensorflow():
  heavy = 'torch', 'tensorflow', 'diffusers', 'transformers'
  code = (
    'import sana_jax, sys; sana_jax.Pipeline; '
    f'print([m for m in {heavy} if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout == '[]\n'


# json's own reader passes RecursionError on, and half a surrogate pair.
PARSES_ITSELF = {
  'sana_jax/files.py': 'is the reader',
  'kernels/tuning.py': 'knows nothing of sana_jax, and catches the same',
  'sana_jax/comfyui/server.py': 'runs without sana_jax, and catches the same',
  'sana_jax/text/tokenizer.py': 'what the tokenizers library has just written',
}


def test_json_is_read_by_one_reader():
  wrong = []
  for path in FILES:
    where = str(path.relative_to(ROOT))
    if path.is_relative_to(ROOT / 'tests') or where in PARSES_ITSELF:
      continue
    for node in nodes(path):
      if isinstance(node, ast.Attribute | ast.ImportFrom) and re.fullmatch(
        r'json\.loads?|from json import .*', ast.unparse(node)
      ):
        wrong.append(f'{where}:{node.lineno} {ast.unparse(node)}')
  assert not wrong
