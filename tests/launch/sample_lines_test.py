"""sana-jax sample --prompts with settings and names of each line."""

import json

import numpy as np
from PIL import Image
import pytest

pytestmark = pytest.mark.long

LINES = [
  {'prompt': 'a cat', 'id': 7},
  {'prompt': 'a cat', 'id': 'steps', 'steps': 3},
  {
    'prompt': 'a dog',
    'file': 'my dog.webp',
    'guidance_scale': 1,
    'num_images': 2,
  },
  {'prompt': 'a cat', 'sampler': 'euler', 'colour': 'red'},
  {'prompt': 'a cat', 'id': 'wide', 'aspect_ratio': '2:1', 'seed': 4},
  {'prompt': 'a fox', 'id': 'seven'},
]
NAMES = [
  '7.png',
  'steps.png',
  'my dog-0.webp',
  'my dog-1.webp',
  '00003-0-a-cat.png',
  'wide.png',
  'seven.png',
]


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image).astype(int)


def contents(out):
  return {p.name: p.read_bytes() for p in out.iterdir()}


def listed(out):
  lines = (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def made(tmp_path_factory, tiny_sana):
  from sana_jax.launch import cli

  folder = tmp_path_factory.mktemp('lines')
  (folder / 'prompts.jsonl').write_text('\n'.join(map(json.dumps, LINES)))
  argv = ['sample', '--model', str(tiny_sana), '--steps', '2', '--seed', '1']
  file = ['--prompts', str(folder / 'prompts.jsonl')]
  batches = ['--batch-size', '2', '--cpu-devices', '1']
  assert cli.main([*argv, *file, *batches, '--out', str(folder / 'out')]) == 0
  return argv, [*file, *batches], folder / 'out'


def test_pictures_have_the_names_and_settings_of_their_lines(made):
  _, _, out = made
  lines = listed(out)
  assert [x['file'] for x in lines] == NAMES
  assert {*contents(out)} == {*NAMES, 'results.jsonl', 'contact_sheet.png'}
  assert [x['steps'] for x in lines] == [2, 3, 2, 2, 2, 2, 2]
  assert [x['guidance_scale'] for x in lines] == [4.5, 4.5, 1, 1, 4.5, 4.5, 4.5]
  assert [x['sampler'] == 'euler' for x in lines] == [
    *[False] * 4,
    True,
    *[False] * 2,
  ]
  assert [x.get('id') for x in lines] == [
    '7',
    'steps',
    None,
    None,
    None,
    'wide',
    'seven',
  ]
  assert lines[5]['aspect_ratio'] == '2:1'
  assert lines[5]['width'] > lines[5]['height']
  for name, line in zip(NAMES, lines):
    assert pixels(out / name).shape == (line['height'], line['width'], 3)


def test_a_picture_does_not_depend_on_the_other_lines(made, cli, tmp_path):
  argv, _, out = made
  alone = [
    ('7.png', []),
    ('steps.png', ['--steps', '3']),
    ('00003-0-a-cat.png', ['--sampler', 'euler']),
    ('wide.png', ['--aspect-ratio', '2:1', '--seed', '4']),
  ]
  for name, flags in alone:
    # Two pictures, as the compiled programs are those of batches of two.
    single = [*argv, '--prompt', 'a cat', '--num-images', 2, *flags]
    assert cli(*single, '--cpu-devices', 1, '--out', tmp_path / name)[0] == 0
    (picture,) = (tmp_path / name).glob('00000-0-*.png')
    assert np.abs(pixels(picture) - pixels(out / name)).max() <= 1, name


def test_a_stopped_job_is_completed_by_name(made, cli, caplog):
  argv, file, out = made
  before = contents(out)
  for name in ('my dog-1.webp', '7.png', 'contact_sheet.png'):
    (out / name).unlink()
  times = {p.name: p.stat().st_mtime_ns for p in out.glob('*.*g')}
  assert cli(*argv, *file, '--out', out)[0] == 0
  assert contents(out) == before
  assert (
    times.items()
    <= {p.name: p.stat().st_mtime_ns for p in out.iterdir()}.items()
  )
  assert caplog.text.count(str(file[1])) == 1


def test_a_second_line_of_a_name_is_listed_as_skipped(
  made, cli, tiny_sana, tmp_path
):
  argv, _, _ = made
  path, out = tmp_path / 'prompts.csv', tmp_path / 'out'
  path.write_text('prompt,id\na,x\nb,y\nc,X\n')
  batches = '--batch-size', 2, '--cpu-devices', 1, '--out', out
  code, _, err = cli(*argv, '--prompts', path, *batches)
  assert code == 1  # A third of the lines.
  assert f'{path}, line 4: ' in err and ' line 2' in err
  assert [x['file'] for x in listed(out)] == ['x.png', 'y.png']
  (skipped,) = (out / 'skipped.jsonl').read_text().splitlines()
  assert json.loads(skipped)['line'] == 4


def test_shards_hold_named_pictures(made, cli, tmp_path):
  argv, file, out = made
  for _ in range(2):
    sharded = [*argv, *file, '--shard-size', '4', '--out', tmp_path]
    assert cli(*sharded)[0] == 0
    assert listed(tmp_path) == listed(out)
  assert len([*tmp_path.glob('*.tar')]) == 2


MODULE = """
def redness(prompts, images):
  return images[..., 0].mean(axis=(1, 2))

def blueness(prompts, images):
  return images[..., 2].mean(axis=(1, 2))
"""


def test_each_line_may_name_a_scorer_of_the_command(
  cli, tiny_sana, tmp_path, monkeypatch
):
  (tmp_path / 'colour_scorers.py').write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  rows = [
    {'prompt': 'a', 'id': 'red'},
    {'prompt': 'a', 'id': 'blue', 'scorer': 'colour_scorers:blueness'},
    {'prompt': 'a', 'id': 'code', 'scorer': 'os:system'},
    {'prompt': 'a red star', 'id': 'steps', 'steps': 3, 'scorer': 'shapes'},
  ]
  path, out = tmp_path / 'prompts.jsonl', tmp_path / 'out'
  path.write_text('\n'.join(map(json.dumps, rows)))
  argv = ['sample', '--model', tiny_sana, '--steps', 2, '--cpu-devices', 1]
  code, _, err = cli(
    *argv,
    *('--prompts', path, '--candidates', 4, '--max-bad-fraction', 0.5),
    *('--scorer', 'colour_scorers:redness'),
    *('--scorer', 'colour_scorers:blueness', '--out', out),
  )
  assert code == 0, err
  assert 'line 3: ' in err and "'os:system'" in err
  lines = listed(out)
  assert [x['file'] for x in lines] == ['red.png', 'blue.png', 'steps.png']
  every = tmp_path / 'every'
  assert cli(*argv, '--prompt', 'a', '--num-images', 4, '--out', every)[0] == 0
  candidates = [pixels(p) for p in sorted(every.glob('0*.png'))]
  for line, channel in zip(lines, (0, 2)):
    means = [x[..., channel].mean() for x in candidates]
    assert line['number'] == int(np.argmax(means))
  assert lines[2]['scorer'] == 'shapes' and lines[2]['steps'] == 3


def test_a_file_without_its_scorer_needs_no_candidates(
  refused, tiny_sana, tmp_path
):
  path = tmp_path / 'prompts.jsonl'
  path.write_text('{"prompt": "a star", "scorer": "textwrap:dedent"}')
  argv = 'sample', '--model', tiny_sana, '--prompts', path
  message = refused(*argv, '--out', tmp_path / 'out')
  assert message.key == '--prompts' and message.error.value == 1
  assert 'textwrap:dedent' in message and not (tmp_path / 'out').exists()
