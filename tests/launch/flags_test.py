"""Types of flags: accepted values, and errors for others."""

import argparse

import pytest

from sana_jax.errors import UserError
from sana_jax.launch import flags

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'text, number', [('1', 1), ('+7', 7), ('007', 7), ('2147483647', 2**31 - 1)]
)
def test_a_whole_number_is_read(text, number):
  assert flags.whole()(text) == number


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '0',
    '-1',
    '1.0',
    '1e3',
    '0x10',
    '1_000',
    ' 1',
    '1 ',
    '1\n',
    '\u0663',
    '\u00b2',
    '2147483648',
    '9' * 19,
    '9' * 5000,
    'nan',
    'True',
  ],
)
def test_what_is_no_whole_number_is_refused(text):
  with pytest.raises(flags.Invalid) as error:
    flags.whole()(text)
  assert error.value.value == text and '1 to 2147483647' in error.value.allowed


@pytest.mark.parametrize(
  'text, number',
  [('0', 0.0), ('4.5', 4.5), ('.5', 0.5), ('5.', 5.0), ('1e-3', 1e-3)],
)
def test_a_number_is_read(text, number):
  assert flags.not_negative(text) == number


@pytest.mark.parametrize(
  'text',
  ['', '-1', 'nan', 'inf', '1e400', '1_0', ' 1', '\u0663', '0x1p3', '9' * 400],
)
def test_what_is_no_finite_number_is_refused(text):
  for kind in (flags.not_negative, flags.positive):
    with pytest.raises(flags.Invalid) as error:
      kind(text)
    assert error.value.value == text and ' 0' in error.value.allowed


@pytest.mark.parametrize(
  'kind, text',
  [
    (flags.ratio, '\u0661\u0666:9'),
    (flags.interval, '0.\u0661:1'),
    (flags.steps, '\u0661:9'),
    (flags.sizes, 'data=\u0661'),
    (flags.sizes, 'd\u00e4ta=1'),
    (flags.backends, 'glumb_conv=\u00e4'),
  ],
)
def test_digits_and_names_are_ascii(kind, text):
  with pytest.raises(flags.Invalid) as error:
    kind(text)
  assert error.value.value == text


@pytest.mark.parametrize(
  'text, allowed',
  [
    ('', 'a value'),
    ('  ', 'a value'),
    ('a\0b', '\\x00'),
    ('a\nb', '\\n'),
    ('\x1b[2J', '\\x1b'),
    ('a\u2028b', '\\u2028'),
    ('a\udcff', 'UTF-8'),
    ('~nosuchuser/x', './~nosuchuser/x'),
  ],
)
def test_a_name_has_characters_and_all_can_be_seen(text, allowed):
  with pytest.raises(flags.Invalid) as error:
    flags.text(text)
  assert error.value.value == text and allowed in error.value.allowed


def test_a_name_may_be_of_any_script():
  assert flags.text('Bilder/中文 \U0001f600') == 'Bilder/中文 \U0001f600'


def test_a_prompt_may_have_lines_or_none():
  assert flags.prompt('') == ''
  assert flags.prompt('a cat\n\ton a mat') == 'a cat\n\ton a mat'
  with pytest.raises(flags.Invalid):
    flags.prompt('a \x1b[2Jcat')


def test_a_refused_value_is_escaped_and_cut():
  with pytest.raises(argparse.ArgumentTypeError) as refused:
    flags.whole()('\x1b[2J' * 99999)
  assert len(str(refused.value)) < 400
  assert str(refused.value).isprintable()


def parser(**kwargs):
  found = flags.Parser(prog='command', **kwargs)
  found.add_argument('--name')
  found.add_argument('--note', type=flags.prompt, default='')
  found.add_argument('--kind', choices=['whole', 'strips'])
  return found


def test_a_flag_without_a_type_is_a_name():
  assert parser().parse_args(['--name', 'x']).name == 'x'
  assert parser().parse_args([]).note == ''
  for words in (['--name', ''], ['--name='], ['--name=\udcff']):
    with pytest.raises(UserError) as error:
      parser().parse_args(words)
    assert error.value.key == '--name'


@pytest.mark.parametrize('words', [['--name=--'], ['x', '--note=--']])
def test_two_dashes_are_no_value(words):
  with pytest.raises(UserError) as error:
    parser().parse_known_args(words)
  assert error.value.key == words[-1].removesuffix('=--')
  assert error.value.value == '--'


def test_words_behind_a_command_are_for_its_own_flags_to_judge():
  found = flags.Parser(prog='command')
  inner = found.add_subparsers().add_parser('draw')
  inner.add_argument('--prompt', type=flags.prompt)
  assert found.parse_args(['draw', '--prompt', 'a\n']).prompt == 'a\n'
  with pytest.raises(UserError) as error:
    found.parse_args(['draw', '--prompt', '\udcff'])
  assert (error.value.key, error.value.value) == ('--prompt', '\udcff')


def test_flags_are_not_abbreviated():
  assert parser().parse_known_args(['--na=x'])[1] == ['--na=x']


def test_a_choice_with_a_typing_error_has_a_suggestion():
  for value, count in (('stripes', 2), ('x', 1)):
    with pytest.raises(UserError) as refused:
      parser().parse_args(['--kind', value])
    assert (refused.value.key, refused.value.value) == ('--kind', value)
    assert refused.value.allowed == ['whole', 'strips']
    assert str(refused.value).count('strips') == count  # Also suggested.


@pytest.mark.parametrize(
  'about, default, shown',
  [
    ('of a model', 3, 'of a model (default: 3)'),
    ('', 3, 'default: 3'),
    ('of a model', None, 'of a model'),
    ('of a model (default: all)', 3, 'of a model (default: all)'),
  ],
)
def test_a_flags_help_ends_with_its_default(about, default, shown):
  parser = flags.Parser(prog='x')
  flags.flag(parser, '--size', 'N', about, flags.whole(), default)
  assert parser.format_help().splitlines()[-1].strip() == f'--size N    {shown}'
  assert parser.parse_args([]).size == default
  assert parser.parse_args(['--size', '5']).size == 5
  with pytest.raises(UserError) as error:
    parser.parse_args(['--size', 'five'])
  assert (error.value.key, error.value.value) == ('--size', 'five')
