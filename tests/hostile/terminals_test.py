"""Processes whose output, folder or language is not as usual."""

import io
import os
import pathlib
import subprocess
import sys
import tarfile

from PIL import Image
import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = f'{sys.executable} -m sana_jax.launch.cli'


def shell(line, cwd=None, **env):
  """(exit code of the last command, stdout, stderr) of a line of bash."""
  done = subprocess.run(
    ['bash', '-o', 'pipefail', '-c', line],
    capture_output=True,
    cwd=cwd,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'CLI': COMMAND} | env,
    check=False,
    timeout=60,
  )
  assert b'Traceback' not in done.stderr, done.stderr
  assert b'Exception ignored' not in done.stderr, done.stderr
  return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_reader_that_leaves_ends_the_command_quietly():
  # Nobody reads any more when something is written.
  code, out, err = shell('{ sleep 3; $CLI zoo --json; } | true')
  assert (code, out, err) == (141, b'', b'')


@pytest.mark.long
@pytest.mark.parametrize(
  'line, code', [('$CLI zoo <&- >&- 2>&-', 0), ('$CLI zoo x >&- 2>&-', 2)]
)
def test_closed_streams_change_no_exit_code(line, code):
  assert shell(line)[0] == code


def test_what_is_printed_does_not_get_into_files_that_are_opened(tmp_path):
  (tmp_path / 'prints.py').write_text(
    'import os\nfrom sana_jax.launch import streams\n'
    'with streams.guarded(), open("written", "w") as file:\n'
    '  os.write(1, b"out"), os.write(2, b"err"), print("x"), file.write("y")'
  )
  assert shell(f'{sys.executable} prints.py >&- 2>&-', tmp_path)[0] == 0
  assert (tmp_path / 'written').read_text() == 'y'


@pytest.mark.long
def test_a_full_disk_under_the_output_is_one_sentence():
  code, _, err = shell('$CLI zoo >/dev/full')
  assert code == 2
  assert err.startswith(b'sana-jax: error: Standard output cannot be written')
  assert err.count(b'\n') == 1


@pytest.mark.long
@pytest.mark.parametrize(
  'env',
  [
    dict(PYTHONIOENCODING='ascii', COLUMNS='0', LINES='0'),
    *(
      pytest.param(env, marks=pytest.mark.slow)
      for env in (
        dict(LC_ALL='C', LANG='C'),
        dict(PYTHONIOENCODING='latin-1', COLUMNS='-1'),
        dict(COLUMNS='x', TERM=''),
        dict(TERM='nosuch'),
      )
    ),
  ],
)
def test_any_language_and_size_of_a_terminal_will_do(env):
  code, out, err = shell('$CLI zoo --help && $CLI zoo "中…é"', **env)
  assert code == 2
  assert b'--json' in out
  assert err.startswith(b'sana-jax: error: ')
  assert err.count(b'\n') == 1


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
  code, _, err = shell(
    'mkdir gone && cd gone && rmdir ../gone && $CLI zoo', tmp_path
  )
  assert code == 2
  assert b'current folder no longer exists' in err


def test_a_user_without_a_home_folder_gets_one_sentence(tmp_path):
  (tmp_path / 'main.py').write_text(
    'import os, sys\nfrom sana_jax.launch import cli\n'
    'os.getuid = lambda: 2**31 - 7\nsys.exit(cli.main(["data", "shapes"]))'
  )
  code, _, err = shell(f'env -u HOME {sys.executable} main.py', tmp_path)
  assert code == 2
  assert b'set HOME' in err
  assert [p.name for p in tmp_path.iterdir()] == ['main.py']


@pytest.mark.slow
def test_names_of_a_data_set_reach_the_terminal_escaped(tmp_path):
  image = io.BytesIO()
  Image.new('RGB', (64, 64)).save(image, 'png')
  with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
    for name, data in (
      ('0.png', image.getvalue()),
      ('0.txt', b'a \x1b[2J\xc2\x9b cat\nand more'),
      ('\x1b]0;title\x07\n.png', b'no image'),
      ('\x1b]0;title\x07\n.txt', b'x'),
    ):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  code, out, err = shell(
    '$CLI data describe --config.data.source=webdataset '
    '--config.data.path=a.tar --config.data.max_bad_fraction=0.9 '
    '--config.data.index_path=',
    tmp_path,
  )
  assert code == 0, err
  said = (out + err).decode()
  assert r'\x1b]0;title\x07' in said and r'a \x1b[2J' in said
  assert not any(c < ' ' and c != '\n' for c in said)
