"""Expansion of home folders in paths."""

import os

import pytest

from sana_jax.errors import UserError
from sana_jax.paths import expanded

pytestmark = pytest.mark.fast


def test_a_home_folder_is_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/somebody')
  assert expanded('~') == '/home/somebody'
  assert expanded('~/data') == '/home/somebody/data'
  assert expanded('a/~/b') == 'a/~/b'
  assert expanded('~root') == os.path.expanduser('~root')


def test_an_unknown_user_is_refused():
  with pytest.raises(UserError) as error:
    expanded('~nosuchuser/x')
  assert error.value.value == '~nosuchuser/x'
  assert error.value.allowed == ['./~nosuchuser/x']


def test_a_user_without_a_home_folder_is_refused(monkeypatch):
  # As in a container whose user has no entry in /etc/passwd.
  monkeypatch.delenv('HOME', raising=False)
  monkeypatch.setattr(os, 'getuid', lambda: 2**31 - 7)
  with pytest.raises(UserError) as error:
    expanded('~/.cache')
  assert (error.value.key, error.value.value) == ('HOME', '~/.cache')
