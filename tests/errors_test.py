"""Errors keep their key, value and allowed values; names are suggested."""

import ast
import pathlib
import pickle

import pytest

from sana_jax.errors import did_you_mean, joined, TransientError, UserError

pytestmark = pytest.mark.fast


def parts(error):
  return str(error), error.key, error.value, error.allowed


def test_an_error_keeps_its_fields_within_a_file_and_over_a_process():
  error = UserError('a=1 must be 2.', key='a', value=1, allowed=('2',))
  assert parts(error.within('x.py')) == ('x.py: a=1 must be 2.', 'a', 1, ('2',))
  assert parts(pickle.loads(pickle.dumps(error))) == parts(error)


def test_keys_of_a_config_are_written_without_its_name():
  root, found = pathlib.Path(__file__).parents[1], []
  for folder in ('sana_jax', 'launch', 'kernels', 'configs'):
    for path in (root / folder).rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == 'key':
          names = [
            n.value for n in ast.walk(node) if isinstance(n, ast.Constant)
          ]
          found += [n for n in names if str(n).startswith('config.')]
  assert set(found) == {'config.json'}  # A file.


def test_fields_of_an_error_are_optional():
  assert parts(TransientError('It failed.')) == ('It failed.', '', None, None)


def test_joined_errors_have_the_fields_of_the_first():
  found = joined(
    [
      UserError('a is bad.', key='a', value=1, allowed='2'),
      UserError('b is bad', key='b'),
    ]
  )
  assert parts(found) == ('a is bad; b is bad.', 'a', 1, '2')


@pytest.mark.parametrize(
  'name, prefix, suggestion',
  [
    ('folderr', '', ' (did you mean folder?)'),
    ('fsdq', 'mesh.', ' (did you mean mesh.fsdp?)'),
    ('', '', ''),
    ('xyz', '', ''),
  ],
)
def test_the_nearest_names_are_suggested(name, prefix, suggestion):
  assert did_you_mean(name, ('folder', 'fsdp'), prefix) == suggestion
