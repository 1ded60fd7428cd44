"""Command lines drawn from the parsers' own flags, with hostile values.

Every line has at least one value that its command must refuse, so that none of
them starts real work.
"""

import argparse
import importlib
import os
import pathlib
import re
import time

from command_line_values import (
  DOCUMENTED,
  HEAVY,
  IMPOSSIBLE,
  INPUTS,
  NOWHERE,
  NUMBERS,
  OUTPUTS,
  PLAUSIBLE,
  SECONDS,
  UNPRINTABLE,
)
import pytest

from sana_jax import config as base
from sana_jax.data import sources
from sana_jax.launch import cli
from sana_jax.tree import flatten


def commands():
  """(words, parser) of each command and of each of its kinds."""
  found = []
  for name in cli.COMMANDS:
    found += leaves([name], cli.build_parsers(name)[1])
  return found


def leaves(words, parser):
  kinds = [
    a for a in parser._actions if isinstance(a, argparse._SubParsersAction)
  ]
  if not kinds:
    return [(words, parser)]
  return [
    leaf
    for kind, inner in kinds[0].choices.items()
    for leaf in leaves([*words, kind], inner)
  ]


def flags_of(parser):
  """Actions that take a value."""
  return [a for a in parser._actions if a.dest != 'help' and a.nargs != 0]


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A working folder with what stands in a command's way."""
  work = tmp_path / 'work'
  (work / 'folder').mkdir(parents=True)
  monkeypatch.chdir(work)
  files = {
    'file': 'text',
    'config': 'x = 1',
    'broken.py': 'def',
    'zeros.pth': '\0' * 99,
    'x.safetensors': 'x',
    'con fig.py': 'raise ValueError("\x1b[2J\\n" * 9999)',
    'notes.tar.gz': 'no tar',
    'prompts.txt': 'a cat\n',
    'data.json': '[' * 9999,
    'line\nbreak.txt': 'a',
    'empty.jsonl': '',
    'control.csv': '\x1b[2J,b\n',
  }
  for name, text in files.items():
    (work / name).write_text(text)
  os.mkfifo(work / 'fifo')
  os.mkfifo(work / 'fifo.py')
  (work / 'loop').symlink_to('loop')
  return work


def a_line(rng, parsers):
  """A command line, at least one of whose values is refused."""
  words, parser = rng.choice(parsers)
  flags = flags_of(parser)
  chosen = [
    a
    for a in flags
    if a.required or not a.option_strings or rng.random() < 3 / len(flags)
  ]
  values = {a.dest: (a, a_value(rng, a)) for a in chosen}
  others = some_others(rng, parser)
  config = next((a for a in flags if a.dest == 'config'), None)
  if config and words[0] in ('train', 'data') and rng.random() < 0.5:
    values['config'] = config, rng.choice(['shapes', 'shapes_dc_ae:quick'])
    others += bad_data(rng)
  else:
    action, value = a_refused(rng, flags)
    values[action.dest] = action, value
  line = [*words]
  for action, value in values.values():
    line += spelled(rng, action, value)
  return line + others


def a_refused(rng, flags):
  """(flag, a value that its command must refuse)."""
  pools = [(a, NOWHERE) for a in flags if a.dest in INPUTS]
  pools += [(a, IMPOSSIBLE) for a in flags if a.dest in OUTPUTS]
  action, pool = rng.choice(pools)
  if action.choices or rng.random() < 0.1:
    pool = UNPRINTABLE
  return action, rng.choice(pool)


def bad_data(rng):
  """Overrides with a source of data that cannot be opened."""
  source = rng.choice([kind for kind in sources.KINDS if kind != 'shapes'])
  path = rng.choice([path for path in NOWHERE if path != '/'])
  return [
    f'--config.data.source={source}',
    f'--config.data.path={path}',
    '--config.data.index_path=',
  ]


def a_value(rng, action):
  """Mostly one that is accepted, so that the refused one is looked at."""
  if rng.random() < 0.07:
    return rng.choice(rng.choice([NUMBERS, NOWHERE, UNPRINTABLE]))
  if action.choices:
    return str(rng.choice(list(action.choices)))
  known = [v for v in [*PLAUSIBLE, *NUMBERS] if accepts(action, v)]
  return rng.choice(known or ['x'])


def accepts(action, value):
  try:
    (action.type or str)(value)
  except (ValueError, argparse.ArgumentTypeError):
    return False
  return True


def spelled(rng, action, value):
  """As one word or two; abbreviated, or given twice, now and then."""
  if not action.option_strings:
    return [value]
  flag = action.option_strings[-1]
  if rng.random() < 0.02:
    flag = flag[:-1]
  words = [f'{flag}={value}'] if rng.random() < 0.7 else [flag, value]
  return words * 2 if rng.random() < 0.05 else words


def some_others(rng, parser):
  """Overrides, unknown flags and switches."""
  switches = [
    a.option_strings[-1]
    for a in parser._actions
    if a.nargs == 0 and a.dest != 'help'
  ]
  words = [s for s in switches if rng.random() < 0.1]
  if parser.get_default('overrides') or rng.random() < 0.03:
    words += overrides(rng)
  if rng.random() < 0.04:
    words.append(
      rng.choice(
        [
          '--nosuch',
          '--nosuch=\x1b[2J',
          'stray',
          '-q',
          '',
          '--help=x',
          '--config',
          '@file',
          '--',
          '\udcff',
        ]
      )
    )
  return words


def overrides(rng):
  """--config.key=value, most of them of a key that there is."""
  keys = list(flatten(base.train('sana'), '.'))
  words = []
  for _ in range(rng.choice([0, 0, 1, 2])):
    key = (
      rng.choice(keys)
      if rng.random() < 0.8
      else rng.choice(['x.y.z', '', '.', 'model', 'data.' * 500, 'loss.l1'])
    )
    value = rng.choice(rng.choice([NUMBERS, NOWHERE, UNPRINTABLE, PLAUSIBLE]))
    words.append(f'--config.{key}={value}')
  return words


def listing(folder):
  """Names and contents' sizes of all that is there."""
  return {
    str(p.relative_to(folder)): p.lstat().st_size if p.is_file() else None
    for p in pathlib.Path(folder).rglob('*')
  }


def problems(line, place, capsys):
  """What is wrong with the way in which a command line ends."""
  before, began = listing(place), time.monotonic()
  capsys.readouterr()
  try:
    code = cli.main(line)
  except SystemExit as e:
    code = e.code
  except (Exception, RecursionError) as e:  # noqa: BLE001  Any is a fault.
    return [f'{type(e).__name__}: {str(e)[:200]}']
  finally:
    out, err = capsys.readouterr()
  found = []
  if time.monotonic() - began > SECONDS:
    found.append(f'took {time.monotonic() - began:.0f} s')
  if code not in DOCUMENTED:
    found.append(f'exit code {code!r}')
  if 'Traceback' in err:
    found.append('traceback: ' + err[-300:])
  if raw := re.findall(
    r'[^\n\r\t -\x7e\xa0-\U0010ffff]|[\u2028\u202e]', out + err
  ):
    found.append(f'control characters {set(raw)}')
  if len(out + err) > 20_000:
    found.append(f'{len(out + err)} characters')
  if code == 2 and 'sana-jax: error: ' not in err and 'usage' not in out:
    found.append(f'nothing is said: {err!r}')
  if code == 2 and (left := listing(place)) != before:
    found.append(f'left {sorted(set(left.items()) ^ set(before.items()))}')
  return found


@pytest.mark.long
def test_a_hostile_command_line_ends_with_one_sentence(hostile, place, capsys):
  parsers = commands()
  for module in HEAVY:  # Else the first line waits for them.
    importlib.import_module(f'sana_jax.{module}')
  faults = []
  for rng in hostile.cases(40, 400):
    line = a_line(rng, parsers)
    if found := problems(line, place, capsys):
      faults.append(f'{line}\n    {found}')
  assert not faults, '\n'.join(faults)[:20_000]
