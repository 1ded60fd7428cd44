"""sana-jax data: a TFDS data set and a sheet of examples."""

from PIL import Image
import pytest

from sana_jax.data import sources


@pytest.mark.long
def test_shapes_are_drawn_and_open_again(cli, tmp_path):
  argv = [
    'data',
    'shapes',
    '--out',
    tmp_path / 'new',
    '--size',
    16,
    '--examples',
    6,
  ]
  code, out, err = cli(*argv)
  assert code == 0, err
  assert out == (
    f'6 training examples are in {tmp_path}/new; 6 of them are '
    f'drawn in {tmp_path}/new/shapes-16.png.\n'
  )
  source = sources.open_source(
    'shapes', path=tmp_path / 'new', size=16, train_examples=6
  )
  assert source[5]['image'].shape == (16, 16, 3)
  with Image.open(tmp_path / 'new/shapes-16.png') as sheet:
    assert sheet.width == 6 * (128 + 12)  # Six columns at 128 px.
  assert cli(*argv)[0] == 0  # It is there already.


@pytest.mark.parametrize('flag, value', [('--size', '8'), ('--examples', '0')])
def test_a_bad_value_is_reported(flag, value, refused, tmp_path):
  message = refused('data', 'shapes', '--out', tmp_path / 'new', flag, value)
  assert message.key == flag
  assert not (tmp_path / 'new').exists()


@pytest.mark.long
def test_a_full_disk_leaves_nothing(process, tmp_path):
  code, out, err = process(
    'data',
    'shapes',
    '--out',
    tmp_path / 'new',
    '--size',
    16,
    '--examples',
    6,
    file_limit=1,
  )
  assert (code, out) == (2, ''), err
  last = err.splitlines()[-1]
  assert last.startswith('sana-jax: error: ') and f'{tmp_path}/new' in last
  assert 'File too large' in last
  assert 'Traceback' not in err
  names = [p.name for p in tmp_path.rglob('*')]
  assert not [n for n in names if 'record' in n or 'incomplete' in n]


def test_any_source_is_described(cli, tmp_path):
  for name in 'ab':
    Image.new('RGB', (100, 50)).save(tmp_path / f'{name}.png')
  (tmp_path / 'a.txt').write_text('a cat')
  (tmp_path / 'b.txt').write_text('')
  code, out, err = cli(
    'data',
    'describe',
    '--config',
    'shapes_dc_ae',
    '--read',
    2,
    '--config.data.source=folder',
    f'--config.data.path={tmp_path}',
    f'--config.data.index_path={tmp_path / "index"}',
  )
  assert code == 0, err
  assert out.startswith('2 records\nshorter side, px\n        below 64  ')
  assert '  b.png: b.txt contains no caption\n' in out
  assert out.endswith('by name: prompt 1\n  a cat\n')


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--config.data.source=zip'], 'data.source'),
    (['--config.data.min_score=-1'], 'data.min_score'),
    (['--read', '0'], '--read'),
    (['--out', 'x'], '--out'),
  ],
)
def test_an_invalid_source_is_reported(flags, key, refused):
  assert refused('data', 'describe', *flags).key == key


def test_a_missing_file_is_reported(refused):
  flags = '--config.data.source=parquet', '--config.data.path=nowhere'
  assert 'nowhere' in refused('data', 'describe', *flags)


@pytest.fixture
def cached(tiny_sana, tmp_path):
  """Arguments of a cache of one image."""
  images = tmp_path / 'images'
  images.mkdir()
  Image.new('RGB', (32, 32)).save(images / 'a.png')
  (images / 'a.txt').write_text('the letter a')
  return [
    'data',
    'cache',
    '--config',
    'shapes',
    '--out',
    tmp_path / 'cache',
    f'--config.autoencoder={tiny_sana}',
    f'--config.text_encoder={tiny_sana}',
    '--config.data.source=folder',
    f'--config.data.path={images}',
    '--config.data.size_px=32',
    '--config.model.sample_size=8',
  ]


@pytest.mark.parametrize(
  'flags, key',
  [
    (['--config.data.size_px=0'], 'data.size_px'),
    (['--config.inputs.text=never'], 'inputs.text'),
    (
      ['--config.inputs.text=online', '--config.inputs.latents=online'],
      'inputs.latents',
    ),
    (['--config.autoencoder='], 'autoencoder'),
    (['--config', 'shapes_dc_ae'], '--config'),
  ],
)
def test_an_invalid_cache_request_is_reported(
  flags, key, cached, refused, tmp_path
):
  argv = cached
  if '--config' in flags:
    argv = [
      a
      for a in cached
      if 'model' not in str(a) and not str(a).startswith('--config.auto')
    ]
  assert refused(*argv, *flags).key == key
  assert not (tmp_path / 'cache').exists()


def test_overrides_are_for_configs_only(refused, tmp_path):
  argv = 'data', 'shapes', '--out', tmp_path / 'x', '--config.seed=1'
  assert refused(*argv).key == '--config.seed'


@pytest.mark.parametrize('out', ['file', 'file/below', '/proc/x', 'foo://x'])
def test_a_cache_looks_at_its_folder_before_it_works(
  out, refused, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('text')
  error = refused(
    'data',
    'cache',
    '--config',
    'shapes',
    '--out',
    out,
    '--config.data.path=nowhere',
    '--config.autoencoder=none',
  )
  assert error.key == '--out'
  assert [p.name for p in tmp_path.iterdir()] == ['file']
