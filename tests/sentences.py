"""Templates of every message that a user may read, for one reviewable file.

  python tests/sentences.py   writes tests/sentences.txt

A template is the text of an error, a warning or a log line as the source has
it, with each value in braces. Tests of behaviour assert an error's fields;
its wording is reviewed here.
"""

import ast
from collections.abc import Iterator
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
SNAPSHOT = ROOT / 'tests' / 'sentences.txt'
FOLDERS = ('sana_jax', 'kernels', 'launch', 'configs')
ERRORS = {
  'Foreign',
  'Full',
  'InUse',
  'OtherCache',
  'RuleError',
  'SkippedUpdates',
  'TextError',
  'TooLargeError',
  'TransientError',
  'UnsupportedError',
  'UserError',
  'WeightError',
}
LOGS = {'warning', 'error', 'info', 'warn', 'log_first_n', 'log_every_n'}


def snapshot() -> str:
  """All templates by file, in order of the source."""
  parts = []
  for folder in FOLDERS:
    for path in sorted((ROOT / folder).rglob('*.py')):
      found = list(templates(path.read_text(encoding='utf-8')))
      if found:
        name = path.relative_to(ROOT).as_posix()
        lines = [f'  {kind}: {template}' for kind, template in found]
        parts.append('\n'.join([name, *lines]))
  return '\n\n'.join(parts) + '\n'


def templates(source: str) -> Iterator[tuple[str, str]]:
  """(kind, template) of each message of a module."""
  nodes = [*_calls(ast.parse(source)), *_problems(ast.parse(source))]
  for kind, node in sorted(nodes, key=lambda n: (n[1].lineno, n[1].col_offset)):
    if found := text(node):
      yield kind, found


def _calls(tree):
  """Arguments of the calls that make or log a message."""
  for call in ast.walk(tree):
    if isinstance(call, ast.Call) and (kind := _kind(call.func)):
      yield from ((kind, argument) for argument in call.args)


def _problems(tree):
  """What functions called `..._problem` or `..._problems` return or yield."""
  for function in ast.walk(tree):
    name = getattr(function, 'name', '')
    if isinstance(name, str) and name.endswith(('problem', 'problems')):
      for node in ast.walk(function):
        if isinstance(node, ast.Return | ast.Yield) and node.value:
          yield 'problem', node.value


def text(node: ast.expr) -> str:
  """The words of an expression, with `{value}`; '' if it has no words."""
  found = _text(node)
  return found if ' ' in re.sub(r'\{.*?\}', '', found).strip() else ''


def _text(node) -> str:
  match node:
    case ast.Constant(value=str(words)):
      return ' '.join(words.split('\n')) if '\n' in words else words
    case ast.JoinedStr(values=values):
      return ''.join(map(_text, values))
    case ast.BinOp(left=left, op=ast.Add(), right=right):
      return _text(left) + _text(right)
    case ast.BinOp(left=left, op=ast.Mod() | ast.Mult()):
      return _text(left)
    case ast.IfExp(body=body, orelse=other):
      return f'[{_text(body)}|{_text(other)}]'
    case ast.FormattedValue(value=value):
      return _text(value) if isinstance(value, ast.IfExp) else _value(value)
  return _value(node)


def _value(node):
  """A value's short name in braces."""
  name = ast.unparse(node)
  return f'{{{name}}}' if len(name) <= 24 else '{...}'


def _kind(function) -> str:
  """Name of what a call makes or logs; '' if it is no message."""
  match function:
    case ast.Name(id=name) if name in ERRORS:
      return name
    case ast.Attribute(attr=name) if name in ERRORS:
      return name
    case ast.Attribute(value=ast.Name(id='logging'), attr=name) if name in LOGS:
      return f'log {name}'
    case ast.Attribute(value=ast.Name(id='warnings'), attr='warn'):
      return 'warning'
    case ast.Attribute(attr='error', value=ast.Name(id='parser')):
      return 'usage'
  return ''


if __name__ == '__main__':
  SNAPSHOT.write_text(snapshot(), encoding='utf-8')
