"""Hooks for output of libraries' threads."""

import sys
import types

import pytest

from sana_jax.launch import terminal

pytestmark = pytest.mark.fast


def _caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  'error, shown',
  [
    (RuntimeError('Event loop is closed'), False),
    (RuntimeError('another'), True),
    (OSError('Event loop is closed'), True),
    (_caused(Exception('reading an array'), GeneratorExit()), False),
    (_caused(Exception('reading an array'), OSError()), True),
  ],
)
def test_errors_of_unfinished_reads_and_writes_alone_are_hidden(
  error,
  shown,
  monkeypatch,
  capsys,
):
  seen = []
  monkeypatch.setattr(sys, 'unraisablehook', seen.append)
  monkeypatch.setattr(sys, 'excepthook', None)  # Restored after the test.
  terminal.silence_orbax_leftovers()
  sys.unraisablehook(
    types.SimpleNamespace(exc_type=type(error), exc_value=error)
  )
  sys.excepthook(type(error), error, None)
  assert bool(seen) == shown
  assert bool(capsys.readouterr().err) == shown
