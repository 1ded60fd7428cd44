"""Untrusted text on a terminal: no control characters, no megabytes."""

import pytest

from sana_jax.printable import message, printable

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'text', ['a red circle', 'ein Käse', '红色的圆', '👩‍🚀 and 🐱', '']
)
def test_plain_text_is_left_alone(text):
  assert printable(text) == text


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('\x1b[2J', '\\x1b[2J'),
    ('a\nb\r', 'a\\nb\\r'),
    ('\u202egpj', '\\u202egpj'),
    ('\ud83d', '\\ud83d'),
    ('\x9b31m', '\\x9b31m'),
    ('a\u2028b', 'a\\u2028b'),
    ('\0', '\\x00'),
  ],
)
def test_invisible_characters_are_escaped(text, shown):
  assert printable(text) == shown
  printable(text).encode()


def test_a_long_text_keeps_its_two_ends():
  shown = printable('a' * 10**7 + 'b', most=100)
  assert len(shown) < 150
  assert shown.startswith('a' * 75) and shown.endswith('b')
  assert str(10**7 + 1 - 100) in shown


def test_characters_can_be_kept():
  assert printable('a\nb\x1b', keep='\n') == 'a\nb\\x1b'


def test_lines_of_a_message_after_the_first_are_indented():
  assert message('a\nb\n    c\n') == 'a\n  b\n  c'
  assert message('a\r\x1b\nerror: b') == 'a\\r\\x1b\n  error: b'
