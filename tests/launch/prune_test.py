"""sana-jax prune: the least important blocks are left out."""

import json

import numpy as np
from PIL import Image
import pytest

from sana_jax.inference.images import write_png
from sana_jax.weights import exchange
from sana_jax.weights import folder as folders


def blocks_of(tensors, index):
  prefix = f'transformer_blocks.{index}.'
  return {
    name.removeprefix(prefix): x.read()
    for name, x in tensors.items()
    if name.startswith(prefix)
  }


def assert_kept(to, source, kept):
  """The folder has these blocks of the source, and all else of it."""
  made, before = (
    exchange.open_source(str(x)).parts['transformer'] for x in (to, source)
  )
  assert made.config == {**before.config, 'num_layers': len(kept)}
  for new, old in enumerate(kept):
    found, want = blocks_of(made.tensors, new), blocks_of(before.tensors, old)
    assert found.keys() == want.keys()
    for name, x in want.items():
      np.testing.assert_array_equal(found[name], x)
  assert not blocks_of(made.tensors, len(kept))


@pytest.mark.long
def test_a_measured_model_keeps_the_most_important_blocks(
  cli, tiny_sana, tmp_path
):
  to = tmp_path / 'small'
  (tmp_path / 'p.txt').write_text('a cat\na dog\n')
  few = ('--levels', 2, '--num-images', 1, '--cpu-devices', 1)
  code, out, err = cli(
    *('prune', '--from', tiny_sana, '--depth', 1, '--to', to),
    *('--prompts', tmp_path / 'p.txt', '--latents', 'noise', *few),
  )
  assert code == 0, err
  record = json.loads((tmp_path / 'small-importance.json').read_text())
  values = record['importance']
  assert record['kept'] == [int(np.argmax(values))] and min(values) > 0
  assert (record['prompts'], record['count'], record['levels']) == (2, 2, 2)
  assert record['latents'] == 'noise'
  assert out.count('kept') == 1 and out.count('left out') == 1
  with Image.open(tmp_path / 'small-importance.png') as image:
    assert image.width > 400
  assert_kept(to, tiny_sana, record['kept'])
  folders.check(to, 'transformer')
  assert (to / 'model_index.json').is_file()


@pytest.mark.long
def test_images_of_a_folder_are_measured(cli, tiny_sana, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
  (tmp_path / 'data').mkdir()
  for i, image in enumerate(pixels):
    write_png(tmp_path / f'data/{i}.png', image)
    (tmp_path / f'data/{i}.txt').write_text(f'number {i}')
  few = ('--levels', 1, '--cpu-devices', 1, '--batch-size', 2)
  code, _, err = cli(
    *('prune', '--from', tiny_sana, '--depth', 1, '--to', tmp_path / 'small'),
    *('--data', tmp_path / 'data', *few),
  )
  assert code == 0, err
  record = json.loads((tmp_path / 'small-importance.json').read_text())
  assert (record['count'], record['prompts']) == (3, 3)
  assert record['latents'] == str(tmp_path / 'data')


@pytest.mark.long
def test_an_earlier_measurement_serves_any_depth(cli, tmp_path):
  file = tmp_path / 'i.json'
  file.write_text(json.dumps({'importance': [6, 5.0, 1, 3, 2, 4]}))
  for depth, kept in ((5, [0, 1, 3, 4, 5]), (2, [0, 1])):
    to = tmp_path / str(depth)
    code, _, err = cli(
      *('prune', '--from', 'shapes', '--depth', depth, '--to', to),
      *('--importance', file),
    )
    assert code == 0, err
    assert_kept(to, 'shapes', kept)
    found = json.loads((tmp_path / f'{depth}-importance.json').read_text())
    assert found['kept'] == kept


@pytest.mark.long
def test_exactly_the_requested_blocks_are_kept(cli, tmp_path):
  to = tmp_path / 'small'
  code, out, err = cli(
    'prune', '--from', 'shapes', '--keep', '4,0,1', '--to', to
  )
  assert code == 0, err
  assert_kept(to, 'shapes', [0, 1, 4])
  assert out.count('kept') == 3 and out.count('left out') == 3
  assert [p.name for p in tmp_path.iterdir()] == ['small']


@pytest.mark.long
@pytest.mark.parametrize(
  'more, key',
  [
    (('--depth', 6), '--depth'),
    (('--depth', 0), '--depth'),
    (('--depth', 60), '--depth'),
    (('--keep', '0,6'), '--keep'),
    (('--keep', '0,x'), '--keep'),
    (('--keep', '0,0'), '--keep'),
    (('--keep', '0,1,2,3,4,5'), '--keep'),
    (('--depth', 3, '--importance', 'none.json'), '--importance'),
    (('--depth', 3, '--prompts', 'none.txt'), '--prompts'),
  ],
)
def test_what_cannot_be_pruned_writes_nothing(
  refused, tmp_path, monkeypatch, more, key
):
  monkeypatch.chdir(tmp_path)
  found = refused('prune', '--from', 'shapes', *more, '--to', tmp_path / 'x')
  assert found.key == key
  assert not [*tmp_path.iterdir()]


@pytest.mark.long
@pytest.mark.parametrize(
  'content',
  [
    '{}',
    '{"importance": [1, 2]}',
    '{"importance": [1, 2, 3, 4, 5, NaN]}',
    '{"importance": [1, 2, 3, 4, 5, true]}',
  ],
)
def test_a_measurement_of_another_model_is_refused(refused, tmp_path, content):
  file = tmp_path / 'i.json'
  file.write_text(content)
  found = refused(
    *('prune', '--from', 'shapes', '--depth', 3, '--importance', file),
    *('--to', tmp_path / 'x'),
  )
  assert found.key == '--importance'
  assert [*tmp_path.iterdir()] == [file]


def test_another_family_and_a_taken_place_are_refused(
  refused, tiny_sana, tmp_path
):
  to = tmp_path / 'x'
  keep = ('--keep', '0', '--to', to)
  assert refused('prune', '--from', tiny_sana / 'vae', *keep).key == '--from'
  assert not [*tmp_path.iterdir()]
  (tmp_path / 'x-importance.png').write_text('mine')
  depth = ('--depth', 1, '--to', to)
  assert refused('prune', '--from', tiny_sana, *depth).key == '--to'
  assert not to.exists()


@pytest.mark.fast
def test_the_plot_has_a_bar_for_each_block():
  import io

  from sana_jax.tools import plots

  png = plots.chosen([0.5, 0.0, 0.1], [0, 2], 'three')
  with Image.open(io.BytesIO(png)) as image:
    pixels = np.asarray(image.convert('RGB'), int)
  colour = [int(plots.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
  assert (abs(pixels - colour).max(-1) < 12).sum() > 1000
