"""Docstrings and docs in plain technical English (CONTRIBUTING.md, Words)."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('sana_jax', 'kernels', 'launch', 'configs', 'docs', 'README.md')
FRAGMENT = re.compile(
  r'(What|Of|By|As|Those|Its|From|That|In|On|None|So|Whose|Where)\b'
)
WORDS = re.compile(
  r"\b(asked|told|tells|said|says|hears|meets|anew|mend|goes on|nobody's"
  r'|one sentence)\b',
  re.IGNORECASE,
)
# What cannot be worded otherwise, and why.
REASONS = {
  ('sana_jax/data/cache.py', 'said'): 'a column of files on disk',
  ('docs/small_model.md', 'one sentence'): 'a sentence of the data set',
}


def files(*suffixes):
  """Texts of the project by path, without tests and results."""
  for name in FOLDERS:
    top = ROOT / name
    for path in [top] if top.is_file() else sorted(top.rglob('*')):
      ours = path.is_file() and '__pycache__' not in path.parts
      if ours and path.suffix in suffixes:
        yield str(path.relative_to(ROOT)), path.read_text(encoding='utf-8')


def docstrings():
  """All docstrings of the project, each with its place."""
  kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  for name, text in files('.py'):
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, kinds) and (doc := ast.get_docstring(node)):
        yield f'{name}:{getattr(node, "lineno", 1)}', doc


def test_docstrings_begin_with_a_noun_or_a_verb():
  found = list(docstrings())
  assert len(found) > 2000  # The walk reached the project.
  fragments = [(at, doc[:60]) for at, doc in found if FRAGMENT.match(doc)]
  assert len(fragments) < 0.01 * len(found), fragments


def test_words_of_a_private_dialect_have_a_reason_or_are_absent():
  found = {
    (name, word.lower())
    for name, text in files('.py', '.md', '.sh', '.yaml', '.sbatch', '')
    for word in WORDS.findall(text)
  }
  assert found == set(REASONS)
  assert len(found) < 20
