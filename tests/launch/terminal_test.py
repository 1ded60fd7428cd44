"""Hooks for output of libraries' threads."""

import sys
import types

import pytest

from sana_jax.launch import terminal

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'error, shown',
  [
    (RuntimeError('Event loop is closed'), False),
    (RuntimeError('another'), True),
    (OSError('Event loop is closed'), True),
  ],
)
def test_errors_of_a_closed_event_loop_alone_are_hidden(
  error,
  shown,
  monkeypatch,
  capsys,
):
  seen = []
  monkeypatch.setattr(sys, 'unraisablehook', seen.append)
  monkeypatch.setattr(sys, 'excepthook', None)  # Restored after the test.
  terminal.silence_closed_loop_errors()
  sys.unraisablehook(
    types.SimpleNamespace(exc_type=type(error), exc_value=error)
  )
  sys.excepthook(type(error), error, None)
  assert bool(seen) == shown
  assert bool(capsys.readouterr().err) == shown
