"""sana-jax data: a TFDS data set and a sheet of examples."""

from PIL import Image
import pytest

from sana_jax.data import sources


def test_shapes_are_drawn_and_open_again(cli, tmp_path):
  argv = ['data', 'shapes', '--out', tmp_path / 'new', '--size', 16,
          '--examples', 6]
  code, out, err = cli(*argv)
  assert code == 0, err
  assert out == (f'6 training examples are in {tmp_path}/new; 6 of them are '
                 f'drawn in {tmp_path}/new/shapes-16.png.\n')
  source = sources.open_source(
    'shapes', path=tmp_path / 'new', size=16, train_examples=6)
  assert source[5]['image'].shape == (16, 16, 3)
  with Image.open(tmp_path / 'new/shapes-16.png') as sheet:
    assert sheet.width == 6 * (128 + 12)  # Six columns at 128 px.
  assert cli(*argv)[0] == 0  # It is there already.


@pytest.mark.parametrize('flags, said', [
  (['--size', '8'], "--size: '8' is not allowed; give a whole number from 16"),
  (['--examples', '0'], "--examples: '0' is not allowed"),
])
def test_a_bad_value_is_told(flags, said, refused, tmp_path):
  assert said in refused('data', 'shapes', '--out', tmp_path / 'new', *flags)
  assert not (tmp_path / 'new').exists()


def test_a_full_disk_leaves_nothing(process, tmp_path):
  code, out, err = process(
    'data', 'shapes', '--out', tmp_path / 'new', '--size', 16, '--examples', 6,
    file_limit=1)
  assert (code, out) == (2, ''), err
  assert err.splitlines()[-1].startswith(
    f'sana-jax: error: Writing shapes to {tmp_path}/new failed (')
  assert 'File too large' in err
  assert 'Traceback' not in err
  names = [p.name for p in tmp_path.rglob('*')]
  assert not [n for n in names if 'record' in n or 'incomplete' in n]
