"""sana-jax bench: a table and its JSON, or one sentence."""

import json

import pytest

from sana_jax import config
from sana_jax.tools.bench import matrix


def test_a_stage_is_measured_printed_and_written(cli, tmp_path):
  code, out, err = cli(
    'bench', 'sample', '--model', 'sana_600m_512', '--size', '32',
    '--stages', 'decode', '--against', 'xla', '--kernels',
    'relu_linear_attention=xla_chunked', '--repeats', '2', '--out', tmp_path)
  assert code == 0, err
  title, head, row, plain = out.splitlines()
  assert title.startswith('sana_600m_512, 32 x 32 px, 20 steps, batch 1')
  assert head.split() == ['stage', 'by', 'seconds', 'images/s', 'TFLOP/s', 'of',
                          'peak', 'GiB', 'ratio']
  assert row.split()[:2] == ['decode', 'sana_jax']
  (file,) = tmp_path.glob('*.json')
  found = json.loads(file.read_text())
  assert plain.split()[:2] == ['decode', 'xla']
  record = found['records'][0]
  assert len(record['seconds']) == 2 and min(record['seconds']) > 0
  assert record['first_seconds'] > min(record['seconds'])
  assert 0 < record['flops'] / min(record['seconds']) < 2 * (
    found['matmul_flops'])
  assert found['command'] == (
    'sana-jax bench sample --model sana_600m_512 --size 32 --stages decode '
    '--against xla --kernels relu_linear_attention=xla_chunked --repeats 2')
  page = (tmp_path / 'sampling.md').read_text()
  assert f'`{found["command"]}`' in page
  (tmp_path / 'sampling.md').unlink()
  assert cli('bench', 'sample', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'sampling.md').read_text() == page


@pytest.mark.parametrize('flags, said', [
  (['--stages', 'denoise,paint'], "--stages has 'paint'; allowed are text"),
  (['--model', 'sana'], "The zoo has no 'sana'"),
  (['--size', '100'], '--size=100 must be a multiple of 32'),
  (['--repeats', '0'], "--repeats: '0' is not allowed"),
  (['--against', 'torch'], "--against: invalid choice: 'torch'"),
  (['--render', 'nowhere'], 'nowhere has no JSON file of this command'),
])
def test_a_bad_value_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'sample', *flags)


SMALL = ['--models', 'sana_600m_512', '--sizes', '64', '--repeats', '1']


def test_kernels_are_measured_printed_and_written(cli, tmp_path):
  code, out, err = cli('bench', 'kernels', *SMALL, '--out', tmp_path)
  assert code == 0, err
  limits, head, *rows = out.splitlines()
  assert 'a large copy moves' in limits and head.split()[:4] == [
    'op', 'shape', 'pass', 'by']
  assert [row.split()[0] for row in rows[:8]] == (
    4 * ['relu_linear_attention'] + 4 * ['glumb_conv'])
  assert {row.split()[2] for row in rows[:4]} == {'1x4x36x32'}
  assert 'by mosaic_tpu cannot run: mosaic_tpu runs on TPUs' in out
  (file,) = tmp_path.glob('kernels-*.json')
  found = json.loads(file.read_text())
  assert found['command'] == 'sana-jax bench kernels ' + ' '.join(SMALL)
  timed = [r for r in found['records'] if r['seconds']]
  assert len(timed) == 8 and all(min(r['seconds']) > 0 for r in timed)
  page = (tmp_path / 'kernels.md').read_text()
  (tmp_path / 'kernels.md').unlink()
  assert cli('bench', 'kernels', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'kernels.md').read_text() == page


def test_tuning_writes_a_table_for_this_kind_of_device(cli, tmp_path):
  code, out, err = cli(
    'bench', 'kernels', *SMALL, '--ops', 'relu_linear_attention', '--passes',
    'forward', '--tune', '--tuned', tmp_path)
  assert code == 0, err
  assert out.startswith('xla_chunked relu_linear_attention float32 1x4x36x32 '
                        'forward: ')
  assert list(json.loads((tmp_path / 'cpu.json').read_text())) == [
    'relu_linear_attention']


@pytest.mark.parametrize('flags, said', [
  (['--ops', 'softmax'], "--ops has 'softmax'; allowed are"),
  (['--passes', 'backward'], "--passes has 'backward'; allowed are forward"),
  (['--backends', 'triton'], "--backends has 'triton'; allowed are xla"),
  (['--sizes', '100'], '--sizes has 100; give multiples of 32'),
  (['--sizes', 'big'], "--sizes: 'big' is not allowed"),
  (['--models', 'sana'], "The zoo has no 'sana'"),
  (['--compile-for', 'v1'], "'v1' is no chip"),
  (['--render', 'nowhere'], 'nowhere has no JSON file of this command'),
])
def test_a_bad_value_for_kernels_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'kernels', *flags)


def test_a_missing_or_unknown_kind_is_one_sentence(refused):
  assert 'the following arguments are required: WHAT' in refused('bench')
  assert "invalid choice: 'speed'" in refused('bench', 'speed')
  assert 'bench kernels has --against' in refused('bench', 'kernels', '--x')


def test_the_train_step_is_measured_printed_and_written(
    cli, tmp_path, monkeypatch):
  monkeypatch.setitem(config.SANA_SIZES, 'tiny', dict(
    width=32, depth=2, cross_heads=2, head_dim=8, in_channels=4,
    out_channels=4, caption_channels=8, sample_size=2))
  code, out, err = cli(
    'bench', 'train', '--model', 'tiny', '--batch-size', '8', '--against',
    'xla', '--kernels', 'glumb_conv=xla_jvp', '--repeats', '1', '--out',
    tmp_path)
  assert code == 0, err
  title, head, ours, plain = out.splitlines()
  assert title.startswith('tiny, 64 px, 8 images, bfloat16, came, remat, fsdp')
  assert head.split() == ['by', 'seconds', 'images/s', 'TFLOP/s', 'MFU',
                          'ratio']
  assert ours.split()[0] == 'sana_jax' and plain.split()[0] == 'xla'
  page = (tmp_path / 'training.md').read_text()
  assert '--kernels glumb_conv=xla_jvp --against xla --repeats 1`' in page


@pytest.mark.parametrize('flags, said', [
  (['--batch-size', '12', '--mesh', 'data=8'], 'batch_size=12 does not split'),
  (['--mesh', 'data=3'], 'mesh is data=3'),
  (['--model', 'big'], '--model=big is no size'),
  (['--compile-for', 'v1'], "'v1' is no chip"),
  (['--kernels', 'glumb_conv=mosaic_tpu'], 'asks for a backend that cannot'),
])
def test_a_bad_value_for_training_is_one_sentence(
    flags, said, refused, monkeypatch):
  monkeypatch.setitem(config.SANA_SIZES, 'tiny', dict(
    width=32, depth=2, cross_heads=2, head_dim=8, sample_size=2))
  assert said in refused('bench', 'train', '--model', 'tiny', *flags)


def test_optimizers_are_counted_and_written(cli, tmp_path, monkeypatch):
  monkeypatch.setitem(config.SANA_SIZES, 'tiny', dict(
    width=128, depth=2, cross_heads=2, in_channels=4, out_channels=4,
    caption_channels=160, sample_size=2))
  flags = '--models', 'tiny', '--block-of', 'tiny', '--steps', '2'
  code, out, err = cli('bench', 'optimizers', *flags, '--out', tmp_path)
  assert code == 0, err
  assert out.startswith('optimizer')
  assert [line.split()[0] for line in out.splitlines()[-2:]] == [
    'elements', 'rows']
  page = (tmp_path / 'optimizers.md').read_text()
  assert f'`sana-jax bench optimizers {" ".join(flags)}`' in page
  (tmp_path / 'optimizers.md').unlink()
  assert cli('bench', 'optimizers', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'optimizers.md').read_text() == page


@pytest.mark.parametrize('flags, said', [
  (['--models', 'big'], "'big' is no size; allowed are sana_600m_512"),
  (['--block-of', 'big'], "'big' is no size"),
  (['--steps', '-1'], "--steps: '-1' is not allowed"),
])
def test_a_bad_value_for_optimizers_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'optimizers', *flags)


@pytest.mark.parametrize('flags, said', [
  (['--config', 'circles'], '--config=circles: there is no such file'),
  (['--config', 'shapes', '--config.batch=1'], 'There is no config.batch'),
  (['--config', 'shapes'], 'config.autoencoder is empty'),
  (['--steps', '0'], "--steps: '0' is not allowed"),
  (['--render', 'nowhere'], 'nowhere has no JSON file of this command'),
])
def test_a_bad_value_for_the_loop_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'loop', *flags)


@pytest.mark.parametrize('flags, said', [
  (['--models', 'sana_600m_512'], '--models=sana_600m_512 is not allowed'),
  (['--models', 'sana:8'], '--model=sana is no size'),
  (['--remat', 'some'], '--remat=some is unknown; allowed are none'),
  (['--with-kernels', 'all'], "--with-kernels has 'all'; allowed are off, on"),
  (['--render', 'nowhere'], 'nowhere has no JSON file of this command'),
])
def test_a_bad_value_for_variants_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'matrix', *flags)


def test_variants_are_written_one_by_one_and_the_table_comes_last(
    cli, tmp_path, monkeypatch):
  facts = matrix.Facts('a chip', {'fsdp': 1}, 1e12, 2e12)
  monkeypatch.setattr(matrix, 'facts', lambda mesh, dtype: facts)

  def records(asked, mesh, repeats, peak):
    assert peak == 2e12
    for variant, seconds in zip(asked, ([1.], [], [2.])):
      yield matrix.Record(variant, seconds, 10**11, '' if seconds else 'no')
      (file,) = tmp_path.glob('matrix-a-chip-*.json')
      written.append(len(json.loads(file.read_text())['records']))
  written = []
  monkeypatch.setattr(matrix, 'records', records)
  code, out, err = cli('bench', 'matrix', '--models', 'sana_600m_512:4',
                       '--out', tmp_path)
  assert code == 0, err
  assert written == [1, 2, 3]
  assert out.splitlines()[-1].split()[:6] == [
    'sana_600m_512', '512', '4', 'dots', 'off', '2']
  assert '2/6 sana_600m_512, remat none, kernels on: no' in err
  assert '| dots | off | 2 |' in (tmp_path / 'matrix.md').read_text()
