"""Escaping of output, and closed outputs."""

import io
import logging
import sys

import pytest

from sana_jax.errors import UserError
from sana_jax.launch import cli, streams, terminal

pytestmark = pytest.mark.fast


def stream(encoding='utf-8'):
  return io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)


def written(to):
  return to.buffer.getvalue().decode(to.encoding)


def test_plain_text_stays_as_it_is():
  out = stream()
  print('a\tb\n\r5 % é 中 \U0001f600', file=streams.Results(out))
  assert written(out) == 'a\tb\n\r5 % é 中 \U0001f600\n'


def test_control_characters_are_escaped():
  out = stream()
  streams.Results(out).writelines(['\x1b[2J\x07\x9b1m', '\u202e\u2028\udcff'])
  assert written(out) == (r'\x1b[2J\x07\x9b1m\u202e\u2028\udcff')


def test_colours_and_the_lines_of_bars_are_kept():
  out = stream()
  streams.Results(out).write('\x1b[31mred\x1b[0m\x1b[A\x1b]0;title\x07')
  assert written(out) == '\x1b[31mred\x1b[0m\x1b[A\\x1b]0;title\\x07'


def test_what_the_encoding_lacks_is_escaped():
  out = stream('ascii')
  streams.Results(out).write('a … 中')
  assert written(out) == r'a \u2026 \u4e2d'


class Failing(io.TextIOWrapper):
  """A pipe or disk of which writing fails."""

  def __init__(self, error, file):
    super().__init__(file)
    self.error = error

  def flush(self):
    if self.error:
      raise self.error


def test_the_command_ends_where_nobody_reads_its_results(tmp_path):
  with (tmp_path / 'file').open('wb') as file:
    out = Failing(BrokenPipeError(), file)
    with pytest.raises(SystemExit) as ended:
      streams.Results(out).flush()
    assert ended.value.code == 141
    out.error = None


def test_a_full_disk_under_the_results_is_a_one_line_error(tmp_path):
  with (tmp_path / 'file').open('wb') as file:
    out = Failing(OSError(28, 'No space left on device'), file)
    with pytest.raises(UserError, match='No space') as error:
      streams.Results(out).flush()
    assert error.value.value == 28
    out.error = None


def test_a_log_that_nobody_reads_stops_nothing(tmp_path):
  with (tmp_path / 'file').open('wb') as file:
    err = Failing(BrokenPipeError(), file)
    streams.Log(err).flush()
    err.error = None


def test_streams_are_as_before_after_a_command(capsys):
  before = sys.stdout, sys.stderr
  assert cli.main(['zoo']) == 0
  assert (sys.stdout, sys.stderr) == before


def test_a_log_line_is_escaped_cut_and_indented(capsys):
  record = logging.LogRecord(
    'x',
    logging.WARNING,
    __file__,
    1,
    'a %s\nerror: no',
    ('\x1b[2J' * 9999,),
    None,
  )
  terminal.Lines().emit(record)
  printed = capsys.readouterr().err
  assert len(printed) < 4000
  assert '\x1b' not in printed
  assert printed.count('\n') == 2 and printed.splitlines()[1].startswith(
    '  error'
  )
