"""sana-jax sample: invalid lines are reported once, and stop no job."""

import json
import os
import shutil

import pytest

from sana_jax.inference import images

PROMPTS = ('a red circle', 'two blue squares over ä cat')


@pytest.fixture(scope='module')
def made(tmp_path_factory, tiny_sana):
  """A folder of two pictures of each of two prompts."""
  from sana_jax.launch import cli

  folder = tmp_path_factory.mktemp('sample')
  prompts = folder / 'prompts.txt'
  prompts.write_text('\n'.join(PROMPTS), encoding='utf-8')
  argv = [
    'sample',
    '--model',
    str(tiny_sana),
    '--prompts',
    str(prompts),
    '--num-images',
    '2',
    '--steps',
    '2',
    '--out',
  ]
  assert cli.main([*argv, str(folder / 'out')]) == 0
  return argv, folder / 'out'


@pytest.mark.long
def test_too_many_bad_lines_are_an_exit_code_of_1(cli, tiny_sana, tmp_path):
  file, out = tmp_path / 'prompts.jsonl', tmp_path / 'out'
  file.write_text(
    '{"prompt": "a cat", "num_images": 4}\n{"prompt": "\\ud83d cat"}\n'
    '{"prompt": "a", "height": 16384, "width": 16384}\n'
    '{"prompt": "a", "negative_prompt": "\\udc00"}\n'
  )
  argv = [
    'sample',
    '--model',
    tiny_sana,
    '--prompts',
    file,
    '--steps',
    '2',
    '--out',
    out,
  ]
  code, printed, err = cli(*argv)
  assert code == 1
  assert printed.startswith('4 pictures are in ')
  assert [err.count(f'line {i}: ') for i in (1, 2, 3, 4)] == [0, 1, 1, 1]
  assert '3 of 4' in err
  rows = [
    json.loads(x) for x in (out / 'skipped.jsonl').read_text().split('\n')[:-1]
  ]
  assert [row['line'] for row in rows] == [2, 3, 4]
  # A second run reports none of them again, and a higher bound is met.
  code, _, err = cli(*argv, '--max-bad-fraction', '0.75')
  assert code == 0
  assert 'line 2: ' not in err and '3 of 4' in err
  # Lines that were repaired are no longer listed.
  file.write_text('{"prompt": "a cat", "num_images": 4}\n')
  assert cli(*argv)[0] == 0
  assert not (out / 'skipped.jsonl').exists()


@pytest.mark.long
def test_damaged_pictures_are_named_and_made_again(made, tmp_path, cli):
  argv, whole = made
  out = tmp_path / 'out'
  shutil.copytree(whole, out)
  names = sorted(p.name for p in out.glob('0*.png'))
  os.truncate(out / names[0], 100)
  (out / names[1]).write_bytes(b'')
  (out / names[2]).unlink()
  os.mkfifo(out / names[2])
  data = bytearray((out / names[3]).read_bytes())
  data[len(data) // 2] ^= 8
  (out / names[3]).write_bytes(data)
  with (out / 'results.jsonl').open('ab') as file:  # Left by a killed run.
    file.write(b'{"file": "000')
  code, _, err = cli(*argv, out)
  assert code == 0
  for name in names:
    assert err.count(str(out / name)) == 1
  assert {p.name: p.read_bytes() for p in out.iterdir()} == {
    p.name: p.read_bytes() for p in whole.iterdir()
  }


@pytest.mark.long
def test_a_folder_in_the_place_of_a_picture_is_refused(made, tmp_path, cli):
  argv, _ = made
  (tmp_path / '00000-1-a-red-circle.png').mkdir()
  code, _, err = cli(*argv, tmp_path)
  assert code == 2
  assert '00000-1-a-red-circle.png' in err.splitlines()[-1]


@pytest.mark.long
def test_a_text_that_a_format_cannot_hold_skips_its_line(
  cli, tiny_sana, tmp_path, monkeypatch
):
  encode = images.encode

  def longer(image, suffix, about=None):
    if about and about['prompt'] == 'a dog':
      # Exif holds 64 KiB; a prompt of that length would be another program.
      about = {**about, 'more': 70_000 * '.'}
    return encode(image, suffix, about)

  monkeypatch.setattr(images, 'encode', longer)
  file, out = tmp_path / 'prompts.txt', tmp_path / 'out'
  file.write_text('a cat\na dog\n')
  for reports in (1, 0):
    code, _, err = cli(
      'sample',
      '--model',
      tiny_sana,
      '--prompts',
      file,
      '--num-images',
      '2',
      '--steps',
      '2',
      '--format',
      'jpg',
      '--out',
      out,
      '--max-bad-fraction',
      '.5',
    )
    assert code == 0
    assert err.count('line 2: ') == reports
    assert '1 of 2' in err
  assert len(list(out.glob('0*.jpg'))) == 2
