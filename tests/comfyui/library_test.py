"""Nodes of ComfyUI that load a model and sample in its process."""

import subprocess
import sys

from comfyui import runner
import numpy as np
import pytest

from sana_jax.comfyui import inputs
from sana_jax.diffusion import samplers
from sana_jax.errors import UserError


@pytest.fixture(scope='module')
def pipeline(nodes, tiny_sana):
  (found,) = runner.run(
    nodes['SanaJaxLoad'], model=str(tiny_sana), dtype='float32'
  )
  return found


def test_each_node_is_one_that_comfyui_can_load(nodes):
  assert len(nodes) == 7
  for cls in nodes.values():
    runner.check_class(cls)
    kind = cls.RETURN_TYPES[0]
    assert kind == 'IMAGE' or kind.startswith('SANA_JAX_')


def test_the_samplers_are_those_of_the_library():
  assert [*inputs.SAMPLERS] == samplers.NAMES


@pytest.mark.long
def test_a_sample_is_the_picture_of_the_library(nodes, pipeline):
  settings = {'prompt': 'a cat', 'negative_prompt': 'a dog', 'seed': 3}
  size = {'width': 32, 'height': 24}
  more = {'steps': 2, 'guidance_scale': 3.0, 'sampler': 'euler'}
  (images,) = runner.run(
    nodes['SanaJaxSample'],
    pipeline=pipeline,
    batch=2,
    **settings,
    **size,
    **more,
  )
  assert images.shape == (2, 24, 32, 3) and images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1
  expected = pipeline(
    **settings, **size, **more, num_images=2, output_type='uint8'
  ).images
  off = np.abs(images * 255 - expected.astype(np.float32))
  assert off.max() < 1.01  # Step by step, rounding may differ.


@pytest.mark.long
def test_a_masked_part_of_an_image_is_repainted(nodes, pipeline, comfy):
  """ComfyUI's IMAGE [b, y, x, 3] and MASK [b, y, x], both in [0, 1]."""
  image = np.random.default_rng(0).random((1, 24, 32, 3), np.float32)
  mask = np.zeros((1, 24, 32), np.float32)
  mask[:, 8:20, 6:11] = 1
  edit = {'image': image, 'mask': mask, 'strength': 0.5}
  (images,) = runner.run(
    nodes['SanaJaxSample'], pipeline=pipeline, steps=4, **edit
  )
  kept = mask[0] == 0
  eight = np.round(image[0] * 255)
  np.testing.assert_array_equal(np.round(images[0][kept] * 255), eight[kept])
  assert (np.round(images[0] * 255) != eight)[~kept].mean() > 0.5
  assert comfy.total == 2 and comfy.done == [1, 2]


def test_a_mask_needs_an_image(nodes, pipeline):
  mask = np.zeros((1, 24, 32), np.float32)
  with pytest.raises(ValueError):
    runner.run(nodes['SanaJaxSample'], pipeline=pipeline, mask=mask)


@pytest.mark.long
def test_defaults_are_those_of_the_model(nodes, pipeline, comfy):
  (images,) = runner.run(nodes['SanaJaxSample'], pipeline=pipeline)
  assert images.shape == (1, pipeline.size_px, pipeline.size_px, 3)
  assert comfy.total == pipeline.default('steps')
  assert comfy.done == [*range(1, comfy.total + 1)]


def test_cancel_stops_between_steps(nodes, pipeline, comfy):
  comfy.cancelled = True
  with pytest.raises(KeyboardInterrupt):
    runner.run(nodes['SanaJaxSample'], pipeline=pipeline, steps=2)
  assert comfy.done == []


@pytest.mark.parametrize(
  'changes',
  [
    {'steps': 1001},
    {'seed': 2**31},
    {'batch': 0},
    {'sampler': 'ddim'},
    {'width': -8},
    {'prompt': ' '},
  ],
)
def test_invalid_widgets_are_refused_before_anything_runs(nodes, changes):
  with pytest.raises(runner.Invalid):
    runner.run(nodes['SanaJaxSample'], pipeline=None, **changes)


def test_errors_of_the_model_are_sentences(nodes, pipeline):
  with pytest.raises(UserError) as error:
    runner.run(nodes['SanaJaxSample'], pipeline=pipeline, width=33)
  assert error.value.key == 'width'


def test_a_hub_id_of_a_workflow_is_not_downloaded(nodes, monkeypatch):
  import huggingface_hub

  called = []

  def download(name, **options):
    called.append(options)
    raise FileNotFoundError(name)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(UserError) as error:
    runner.run(nodes['SanaJaxLoad'], model='me/cat')
  assert error.value.key == 'model'
  monkeypatch.setenv('SANA_JAX_COMFYUI_DOWNLOAD', '1')
  with pytest.raises(UserError):
    runner.run(nodes['SanaJaxLoad'], model='me/cat')
  assert [x['local_files_only'] for x in called] == [True, False]


def test_a_model_is_loaded_again_once_its_files_change(nodes, tmp_path):
  cls = nodes['SanaJaxLoad']
  first = cls.IS_CHANGED(model=str(tmp_path), dtype='default')
  (tmp_path / 'a.json').write_text('{}')
  second = cls.IS_CHANGED(model=str(tmp_path), dtype='default')
  assert first != second
  assert second == cls.IS_CHANGED(model=str(tmp_path), dtype='float32')
  assert cls.IS_CHANGED(model='shapes', dtype='default') == ''
  assert cls.VALIDATE_INPUTS(model=' ') is not True


def test_the_folder_loads_without_jax_and_without_sana_jax(nodes, tmp_path):
  folder = sys.modules[nodes['SanaJaxLoad'].__module__].__file__
  code = f"""
import pathlib, sys
sys.path.append({str(runner.__file__.rpartition('/')[0])!r})
sys.modules |= dict.fromkeys(('jax', 'sana_jax', 'torch', 'comfy'))
import runner
nodes = runner.load(pathlib.Path({folder!r}).parent).NODE_CLASS_MAPPINGS
for cls in nodes.values():
  runner.check_class(cls)
for name, more in (('SanaJaxLoad', {{}}), ('SanaJaxServer', {{'server': 'http://127.0.0.1:9'}})):
  try:
    runner.run(nodes[name], **more)
  except RuntimeError as e:
    print(e)
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=tmp_path,
  )
  first, second = done.stdout.splitlines()
  assert first.startswith('sana_jax is not installed')
  assert second.startswith('http://127.0.0.1:9 cannot be reached')
