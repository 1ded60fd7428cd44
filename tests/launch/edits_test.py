"""sana-jax sample --image and --mask, and the same of lines of prompt files."""

import json

import numpy as np
from PIL import Image
import pytest

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (16, 24, 3), np.uint8)
MASK = np.zeros((16, 24), bool)
MASK[2:9, 10:15] = True


@pytest.fixture
def files(tmp_path):
  """A folder with a photo, its mask and files that are neither."""
  Image.fromarray(PHOTO).save(tmp_path / 'photo.png')
  Image.fromarray(MASK).save(tmp_path / 'mask.png')
  Image.fromarray(~MASK & False).save(tmp_path / 'empty.png')
  Image.fromarray(MASK[:8]).save(tmp_path / 'small.png')
  (tmp_path / 'text.png').write_text('no image')
  return tmp_path


@pytest.fixture
def argv(files, tiny_sana):
  start = ['sample', '--model', tiny_sana, '--steps', 2, '--cpu-devices', 1]
  return [*start, '--out', files / 'out']


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image)


def listed(out):
  lines = (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.long
def test_a_masked_part_is_repainted_and_the_rest_is_untouched(cli, argv, files):
  argv += ['--prompt', 'a cat', '--num-images', 2, '--mask-blur', 0]
  argv += ['--image', files / 'photo.png', '--mask', files / 'mask.png']
  code, _, err = cli(*argv)
  assert code == 0, err
  rows = listed(files / 'out')
  assert len(rows) == 2
  for row in rows:
    got = pixels(files / 'out' / row['file'])
    np.testing.assert_array_equal(got[~MASK], PHOTO[~MASK])
    assert (got != PHOTO)[MASK].mean() > 0.5
    assert (row['height'], row['width']) == (16, 24)
    assert row['image']['file'].endswith('photo.png')
    assert row['mask']['file'].endswith('mask.png')
  before = {p.name: p.read_bytes() for p in (files / 'out').iterdir()}
  assert cli(*argv)[0] == 0  # Nothing is left to do.
  assert before == {p.name: p.read_bytes() for p in (files / 'out').iterdir()}


@pytest.mark.long
def test_lines_have_images_of_their_own(cli, argv, files):
  """Beside lines without, in one run; paths are relative to the file."""
  lines = [
    {'prompt': 'a cat', 'id': 'plain', 'height': 16, 'width': 24},
    {'prompt': 'a cat', 'id': 'noise', 'image': 'photo.png', 'strength': 1},
    {
      'prompt': 'a cat',
      'id': 'kept',
      'image': 'photo.png',
      'mask': 'empty.png',
    },
    {'prompt': 'a cat', 'id': 'part', 'image': 'photo.png', 'mask': 'mask.png'},
    {'prompt': 'a cat', 'id': 'absent', 'image': 'absent.png'},
    {'prompt': 'a cat', 'id': 'odd', 'image': 'photo.png', 'mask': 'small.png'},
    {'prompt': 'a cat', 'id': 'lone', 'mask': 'mask.png'},
    {'prompt': 'a cat', 'id': 'far', 'image': 'photo.png', 'strength': 2},
  ]
  (files / 'in').mkdir()
  for path in files.glob('*.png'):
    path.rename(files / 'in' / path.name)
  prompts = files / 'in' / 'prompts.jsonl'
  prompts.write_text('\n'.join(map(json.dumps, lines)))
  code, _, err = cli(*argv, '--prompts', prompts, '--max-bad-fraction', 0.9)
  assert code == 0, err
  out = files / 'out'
  made = {row['file'] for row in listed(out)}
  assert made == {'plain.png', 'noise.png', 'kept.png', 'part.png'}
  np.testing.assert_array_equal(
    pixels(out / 'plain.png'), pixels(out / 'noise.png')
  )
  np.testing.assert_array_equal(pixels(out / 'kept.png'), PHOTO)
  part = pixels(out / 'part.png')
  np.testing.assert_array_equal(part[~MASK], PHOTO[~MASK])
  skipped = (out / 'skipped.jsonl').read_text().splitlines()
  assert [json.loads(line)['line'] for line in skipped] == [5, 6, 7, 8]


@pytest.mark.long
def test_lines_with_other_images_are_drawn_in_one_batch(
  cli, argv, files, monkeypatch
):
  """To pixels of each line alone."""
  from sana_jax.inference.pipeline import Pipeline

  calls, draw = [], Pipeline.draw
  monkeypatch.setattr(
    Pipeline,
    'draw',
    lambda self, prompts, **how: (
      calls.append(len(prompts)) or draw(self, prompts, **how)
    ),
  )
  Image.fromarray(PHOTO[::-1]).save(files / 'other.png')
  Image.fromarray(MASK[::-1]).save(files / 'turned.png')
  lines = [
    {'prompt': 'a cat', 'id': 'a', 'image': 'photo.png', 'mask': 'mask.png'},
    {'prompt': 'a dog', 'id': 'b', 'image': 'other.png', 'mask': 'turned.png'},
  ]
  for name, kept in (('both', lines), ('a', lines[:1]), ('b', lines[1:])):
    prompts = files / f'{name}.jsonl'
    prompts.write_text('\n'.join(map(json.dumps, kept)))
    out = files / f'out-{name}'
    code, _, err = cli(*argv[:-1], out, '--prompts', prompts)
    assert code == 0, err
  assert calls == [2, 1, 1]
  for name, image, mask in (
    ('a', PHOTO, MASK),
    ('b', PHOTO[::-1], MASK[::-1]),
  ):
    got = pixels(files / 'out-both' / f'{name}.png')
    alone = pixels(files / f'out-{name}' / f'{name}.png')
    assert np.abs(np.int16(got) - alone).max() <= 1
    np.testing.assert_array_equal(got[~mask], image[~mask])


@pytest.mark.long
def test_the_flags_are_the_defaults_of_lines(cli, argv, files):
  lines = [
    {'prompt': 'a cat', 'id': 'own', 'strength': 0, 'width': 16},
    {'prompt': 'a cat', 'id': 'wide', 'aspect_ratio': '2:1'},
  ]
  prompts = files / 'prompts.jsonl'
  prompts.write_text('\n'.join(map(json.dumps, lines)))
  argv += ['--image', files / 'photo.png', '--strength', 0.5]
  code, _, err = cli(*argv, '--prompts', prompts)
  assert code == 0, err
  own, wide = listed(files / 'out')
  assert own['strength'] == 0 and wide['strength'] == 0.5
  # In proportion: 16 / 24 of 16.
  assert (own['height'], own['width']) == (11, 16)
  # Multiples of 4 near the model's area, 32 x 32.
  assert (wide['height'], wide['width']) == (24, 44)


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--image', 'absent.png'], 'image'),
    (['--image', 'text.png'], 'image'),
    (['--image', '.'], 'image'),
    (['--image', 'photo.png', '--mask', 'absent.png'], 'mask'),
    (['--image', 'photo.png', '--mask', 'text.png'], 'mask'),
    (['--image', 'photo.png', '--mask', 'small.png'], 'mask'),
    (['--mask', 'mask.png'], '--mask'),
    (['--strength', '0.5'], '--strength'),
    (['--mask-blur', '2'], '--mask-blur'),
    (
      ['--image', 'photo.png', '--padding-mask-crop', '2'],
      '--padding-mask-crop',
    ),
    (['--image', 'photo.png', '--strength', '1.5'], '--strength'),
    (['--image', 'photo.png', '--strength', '-1'], '--strength'),
    (['--image', 'photo.png', '--mask-blur', '1.5'], '--mask-blur'),
  ],
  ids=' '.join,
)
def test_bad_images_and_masks_are_refused_before_anything_is_written(
  refused, argv, files, monkeypatch, flags, key
):
  monkeypatch.chdir(files)
  message = refused(*argv, '--prompt', 'a cat', *flags)
  assert message.error.key == key
  assert not (files / 'out').exists()
