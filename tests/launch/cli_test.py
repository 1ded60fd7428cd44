"""The command line: help, exit codes, one-line errors."""

import pytest

from sana_jax.errors import TransientError
from sana_jax.launch import cli as commands
from sana_jax.version import __version__

pytestmark = pytest.mark.fast


@pytest.mark.parametrize('name', commands.COMMANDS)
def test_help_shows_an_example(name, capsys):
  with pytest.raises(SystemExit) as stopped:
    commands.main([name, '--help'])
  assert stopped.value.code == 0
  assert f'\n  sana-jax {name} ' in capsys.readouterr().out


def test_help_names_every_command(capsys):
  with pytest.raises(SystemExit) as stopped:
    commands.main(['--help'])
  assert stopped.value.code == 0
  printed = capsys.readouterr().out
  assert all(f'  {name} ' in printed for name in commands.COMMANDS)
  assert '\n  sana-jax sample ' in printed


def test_no_command_is_help(cli):
  code, out, _ = cli()
  assert code == 2
  assert out.startswith('usage: sana-jax')


def test_the_version_is_reported(capsys):
  with pytest.raises(SystemExit) as stopped:
    commands.main(['--version'])
  assert stopped.value.code == 0
  assert capsys.readouterr().out == f'{__version__}\n'


@pytest.mark.parametrize(
  'argv, key, value',
  [
    (['draw'], 'COMMAND', 'draw'),
    (['--size=3'], '--size', '--size=3'),
    (['sample', '--prompt', 'x'], '--out', None),
    (['sample', '--model', 'm', '--out', 'o'], '--prompt', None),
    (
      [
        'sample',
        '--model',
        'm',
        '--out',
        'o',
        '--prompt',
        'x',
        '--prompts',
        'y',
      ],
      '--prompts',
      None,
    ),
    (
      ['evaluate', '--model', 'm', '--suite', 'geneval'],
      '--suite',
      'geneval',
    ),
    (['data', 'coco'], 'WHAT', 'coco'),
    (['train', '--config', 'shapes'], '--workdir', None),
  ],
)
def test_a_bad_command_line_is_a_one_line_error(argv, key, value, refused):
  error = refused(*argv).error
  assert (error.key, error.value) == (key, value)


def test_what_may_pass_by_itself_has_an_exit_code_of_its_own(
  monkeypatch, capsys
):
  def trouble(argv):
    raise TransientError('The bucket does not answer.')

  monkeypatch.setattr(commands, 'run', trouble)
  assert commands.main(['train']) == 75
  assert capsys.readouterr().err == (
    'sana-jax: error: The bucket does not answer.\n'
  )


def test_a_process_ends_with_2_and_no_traceback(process):
  code, out, err = process(
    'sample', '--model', 'm', '--out', 'o', '--prompt', 'x', '--steps', '0'
  )
  assert (code, out) == (2, '')
  assert err.startswith('sana-jax: error: ') and err.count('\n') == 1
  assert "--steps: '0'" in err and '1 to 1000' in err
