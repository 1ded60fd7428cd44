"""sana-jax convert: it is lossless, and an error writes nothing."""

import json
import pathlib
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax.models import abstract
from sana_jax.tree import leaves
from sana_jax.weights import exchange, hub, weight_files
from sana_jax.weights import folder as folders

pytestmark = pytest.mark.long

STEM = 'diffusion_pytorch_model'


def tensors(folder, part='transformer'):
  stem = 'model' if part == 'text_encoder' else STEM
  return weight_files.read(folder / part, stem)


def assert_same_bits(got, want):
  assert got.keys() == want.keys()
  for key in want:
    assert got[key].dtype == want[key].dtype
    assert got[key].read().tobytes() == want[key].read().tobytes()


def files(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file()
  }


@pytest.fixture
def convert(cli, tmp_path):
  """Converts to a new path, which is returned."""

  def run(source, fmt, *more):
    to = tmp_path / (f'{fmt}.pth' if fmt == 'official' else fmt)
    code, out, err = cli(
      'convert', '--from', source, '--to', to, '--format', fmt, *more
    )
    assert code == 0, err
    assert 'MB/s' in out
    return to

  return run


def test_through_our_own_format_and_back_every_bit_is_the_same(
  tiny_sana, convert
):
  own = convert(tiny_sana, 'orbax')
  assert (own / 'transformer' / 'orbax').is_dir()
  back = convert(own, 'diffusers')
  for part in ('transformer', 'vae', 'text_encoder'):
    assert_same_bits(tensors(back, part), tensors(tiny_sana, part))
  rest = lambda folder: {
    path: data
    for path, data in files(folder).items()
    if path.suffix == '.json' and path.name != 'golden.json'
  }
  assert rest(back) == rest(tiny_sana)


def test_our_own_format_gives_the_same_picture(tiny_sana, convert, cli):
  own = convert(tiny_sana, 'orbax')
  pictures = []
  for model in (tiny_sana, own):
    code, _, err = cli(
      'sample',
      '--model',
      model,
      '--prompt',
      'a',
      '--num-images',
      4,
      '--steps',
      2,
      '--out',
      own.parent / 'pictures',
    )
    assert code == 0, err
    with Image.open(own.parent / 'pictures' / '00000-0-a.png') as image:
      pictures.append(np.asarray(image))
    shutil.rmtree(own.parent / 'pictures')
  np.testing.assert_array_equal(*pictures)


def test_through_the_official_format_and_back_every_bit_is_the_same(
  tiny_sana, convert
):
  for part in ('transformer', 'vae'):
    file = convert(tiny_sana, 'official', '--part', part)
    back = convert(file, 'diffusers', '--base', tiny_sana)
    assert_same_bits(tensors(back, part), tensors(tiny_sana, part))
    assert (back / 'model_index.json').is_file()
    file.unlink()
    shutil.rmtree(back)


def test_a_dtype_is_cast_once(tiny_sana, convert):
  got = tensors(convert(tiny_sana, 'diffusers', '--dtype', 'bfloat16'))
  for key, want in tensors(tiny_sana).items():
    np.testing.assert_array_equal(
      got[key].read(), want.read().astype(got[key].dtype), strict=True
    )
    assert got[key].dtype.name == 'bfloat16'


def test_the_folder_of_one_part_is_a_source(tiny_sana, convert):
  got = convert(tiny_sana / 'vae', 'diffusers')
  assert [p.name for p in got.iterdir()] == ['vae']
  assert_same_bits(tensors(got, 'vae'), tensors(tiny_sana, 'vae'))


@pytest.fixture
def plain(tiny_sana, tmp_path):
  """The folder of a transformer without norms."""
  module = folders.describe(tiny_sana, 'transformer').clone(
    qk_norm=False, cross_norm=False
  )
  params = abstract.transformer_init(module)(jax.random.key(0))
  folders.write(tmp_path / 'plain', 'transformer', module, {'params': params})
  return tmp_path / 'plain/transformer'


@pytest.mark.parametrize('fmt', ['diffusers', 'orbax'])
def test_dense_time_changes_only_the_time_embedding(fmt, convert, capsys):
  source = hub.find('shapes')
  dense = convert('shapes', fmt, '--dense-time')
  made = folders.load(dense, 'transformer')
  before = folders.load(source, 'transformer')
  assert made.module == before.module.clone(timestep_scale=0.001)
  old, new = leaves(before.variables), leaves(made.variables)
  changed = {name for name in new if not np.array_equal(new[name], old[name])}
  prefix = 'params/time_embed/timestep/linear'
  assert changed and all(name.startswith(prefix) for name in changed)
  for part in ('vae', 'text_encoder'):
    if fmt == 'diffusers':
      assert_same_bits(tensors(dense, part), tensors(source, part))


def test_dense_time_samples_nearly_the_same_picture(convert, cli, tmp_path):
  dense = convert('shapes', 'diffusers', '--dense-time')
  pictures = []
  for model in ('shapes', dense):
    out = tmp_path / f'pictures{len(pictures)}'
    code, _, err = cli(
      *('sample', '--model', model, '--prompt', 'a red circle'),
      *('--steps', 4, '--seed', 1, '--out', out),
    )
    assert code == 0, err
    (path,) = out.glob('*circle.png')
    with Image.open(path) as image:
      pictures.append(np.asarray(image, float))
  # Measured with 20 steps: 0.14 of 255 levels.
  assert np.abs(pictures[0] - pictures[1]).mean() < 1


def test_the_fit_is_printed(cli, tmp_path):
  code, out, err = cli(
    *('convert', '--from', 'shapes', '--to', tmp_path / 'x'),
    *('--format', 'diffusers', '--part', 'transformer', '--dense-time'),
  )
  assert code == 0, err
  rmse, rms, before, after = map(
    float,
    re.search(
      r'error of ([\d.]+) .*rms ([\d.]+);.* was ([\d.]+) and is '
      r'([\d.]+)\.$',
      out.strip().splitlines()[-1],
    ).groups(),
  )
  assert rmse < 0.15 * rms and after < before / 6


def test_norms_are_added_and_the_rest_is_kept(plain, convert):
  normed = convert(plain, 'diffusers', '--norms')
  old, new = tensors(plain.parent), tensors(normed)
  assert_same_bits({key: new[key] for key in old}, old)
  added = {key: new[key].read() for key in new if key not in old}
  assert all(re.search(r'norm_[qk]\.weight$', key) for key in added)
  assert len(added) == 4 * folders.describe(normed, 'transformer').depth
  assert all(np.all(x == 1) for x in added.values())
  assert folders.describe(normed, 'transformer').qk_norm


def test_added_tensors_have_the_files_dtype(plain, convert, tmp_path):
  half = tmp_path / 'half'
  convert(plain, 'diffusers', '--dtype', 'bfloat16').rename(half)
  both = convert(half / 'transformer', 'diffusers', '--dense-time', '--norms')
  assert {x.dtype.name for x in tensors(both).values()} == {'bfloat16'}


@pytest.mark.parametrize(
  'flags, key, value',
  [
    (['--norms'], 'qk_norm', True),
    (['--dense-time', '--norms'], 'qk_norm', True),
    (['--dense-time', '--part', 'vae'], '--part', ('vae',)),
    (
      ['--dense-time', '--to', 'x.pth', '--format', 'official'],
      '--format',
      'official',
    ),
  ],
)
def test_a_part_that_cannot_be_added_is_a_one_line_error(
  flags, key, value, tiny_sana, refused, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  message = refused(
    *('convert', '--from', tiny_sana, '--to', 'x', '--format', 'diffusers'),
    *flags,
  )
  assert (message.key, message.error.value) == (key, value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'argv, key, value',
  [
    (
      ['--from', 'MODEL', '--to', 'x', '--format', 'official'],
      '--to',
      'x',
    ),
    (
      ['--from', 'MODEL', '--to', 'x.pth', '--format', 'orbax'],
      '--to',
      'x.pth',
    ),
    (
      ['--from', 'MODEL', '--to', 'x', '--format', 'orbax', '--part', 'unet'],
      '--part',
      'unet',
    ),
    (['--from', 'MODEL', '--to', '.', '--format', 'orbax'], '--to', '.'),
    (
      ['--from', 'nothing.pth', '--to', 'x', '--format', 'orbax'],
      '',
      pathlib.Path('nothing.pth'),
    ),
    (
      ['--from', 'nothing', '--to', 'x', '--format', 'orbax'],
      'model',
      'nothing',
    ),
  ],
)
def test_a_mistake_is_a_one_line_error_and_writes_nothing(
  argv, key, value, tiny_sana, refused, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  argv = [str(tiny_sana) if a == 'MODEL' else a for a in argv]
  message = refused('convert', *argv)
  assert (message.key, message.error.value) == (key, value)
  assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_a_one_line_error(tiny_sana, refused, tmp_path):
  message = refused(
    *('convert', '--from', tiny_sana, '--to', tmp_path / 'x'),
    *('--format', 'gguf'),
  )
  assert '--format' in message and "'gguf'" in message
  assert not list(tmp_path.iterdir())


def damaged(tiny_sana, tmp_path, change):
  folder = shutil.copytree(tiny_sana, tmp_path / 'damaged')
  change(folder)
  return folder


def truncate(folder):
  path = folder / 'vae' / f'{STEM}.safetensors'
  path.write_bytes(path.read_bytes()[:-7])


def other_model(folder):
  shutil.copy(folder / 'vae' / f'{STEM}.safetensors', folder / 'transformer')


def other_depth(folder):
  path = folder / 'transformer' / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'num_layers': 9}))


@pytest.mark.parametrize(
  'change, expected',
  [
    (truncate, 'damaged or truncated'),
    (other_model, 'transformer: The weights are of another model: none of the'),
    (other_depth, 'transformer: The weights do not fit the model'),
    (
      lambda folder: (folder / 'model_index.json').unlink(),
      'contains no supported model',
    ),
  ],
)
def test_a_damaged_folder_is_reported_before_anything_is_written(
  change, expected, tiny_sana, tmp_path, cli
):
  folder = damaged(tiny_sana, tmp_path, change)
  code, out, err = cli(
    'convert',
    '--from',
    folder,
    '--to',
    tmp_path / 'to',
    '--format',
    'diffusers',
  )
  assert code == 2
  assert not out
  assert expected in err
  assert [p.name for p in tmp_path.iterdir()] == ['damaged']


def test_a_failed_write_leaves_nothing(tiny_sana, tmp_path, monkeypatch, cli):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(exchange.folders, 'write_part', full)
  code, _, err = cli(
    'convert',
    '--from',
    tiny_sana,
    '--to',
    tmp_path / 'to',
    '--format',
    'diffusers',
  )
  assert code == 2
  assert 'No space left on device' in err
  assert not list(tmp_path.iterdir())
