"""Nodes of ComfyUI for adapters and ControlNets."""

import importlib.util
import pathlib
import sys
import types

import adapter_files
from comfyui import runner
from controlled_pipes import controlled, plain
import numpy as np
import pytest

from sana_jax.data import annotators
from sana_jax.errors import UserError
from sana_jax.inference import adapters
from sana_jax.weights import folder as folders

_spec = importlib.util.spec_from_file_location(
  'demo_server',
  pathlib.Path(__file__).parents[1] / 'hostile' / 'demo_server.py',
)
demo_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo_server)

SCENE = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
SMALL = {'prompt': 'a cat', 'width': 16, 'height': 16, 'steps': 2, 'seed': 5}


@pytest.fixture(scope='module')
def style(tmp_path_factory):
  path = tmp_path_factory.mktemp('lora') / 'style.safetensors'
  return adapter_files.write(path, plain().transformer.module)


def lora(nodes, pipeline, path, strength=1.0):
  (found,) = runner.run(
    nodes['SanaJaxLora'], pipeline=pipeline, lora=str(path), strength=strength
  )
  return found


def control(nodes, **changes):
  (found,) = runner.run(nodes['SanaJaxControl'], image=SCENE, **changes)
  return found


def test_loras_add_up_and_0_changes_nothing(nodes, style):
  pipeline = plain()
  once = lora(nodes, pipeline, style, 0.5)
  twice = lora(nodes, once, style, -1)
  weights = {name: x.weight for name, x in twice.loras.items()}
  assert weights == {'style': 0.5, 'style_2': -1.0} and not pipeline.loras
  assert lora(nodes, pipeline, style, 0) is pipeline


def test_a_lora_is_found_in_the_folder_of_comfyui(nodes, style, monkeypatch):
  module = types.ModuleType('folder_paths')
  module.get_full_path = lambda kind, name: (
    str(style) if (kind, name) == ('loras', 'a.safetensors') else None
  )
  monkeypatch.setitem(sys.modules, 'folder_paths', module)
  found = lora(nodes, plain(), 'a.safetensors')
  assert [*found.loras] == ['style']
  assert [*lora(nodes, plain(), style).loras] == ['style']  # A path.
  cls = nodes['SanaJaxLora']
  assert str(style) in cls.IS_CHANGED(lora='a.safetensors')
  assert cls.IS_CHANGED() == ''


@pytest.mark.parametrize('name', ['missing', '/dev/zero', '../../etc/passwd'])
def test_what_is_no_lora_is_one_sentence(nodes, name):
  with pytest.raises(UserError) as error:
    lora(nodes, plain(), name)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'node, values',
  [
    ('SanaJaxLora', {'lora': ' '}),
    ('SanaJaxLora', {'lora': 'a', 'strength': 101}),
    ('SanaJaxLora', {'lora': 'a', 'strength': float('nan')}),
    ('SanaJaxControlNet', {'controlnet': ''}),
    ('SanaJaxControl', {'start_percent': 0.5, 'end_percent': 0.5}),
    ('SanaJaxControl', {'strength': -1}),
    ('SanaJaxControl', {'annotator': 'os'}),
    ('SanaJaxServerLora', {'name': ''}),
    ('SanaJaxServerLora', {'name': 'a', 'strength': 1e9}),
  ],
)
def test_invalid_widgets_are_refused_before_anything_runs(nodes, node, values):
  cls = nodes[node]
  given = dict.fromkeys({'pipeline', 'image'} & {*runner.inputs_of(cls)})
  with pytest.raises(runner.Invalid):
    runner.run(cls, **given, **values)


def test_a_controlnet_of_a_folder_is_added(nodes, tmp_path, monkeypatch):
  folders.write(tmp_path, 'controlnet', *controlled().controlnets[0])
  cls = nodes['SanaJaxControlNet']
  (found,) = runner.run(cls, pipeline=plain(), controlnet=str(tmp_path))
  assert len(found.controlnets) == 1
  before = cls.IS_CHANGED(controlnet=str(tmp_path))
  (tmp_path / 'more').write_text('x')
  assert before and before != cls.IS_CHANGED(controlnet=str(tmp_path))
  import huggingface_hub

  called = []

  def download(name, **options):
    called.append(options['local_files_only'])
    raise FileNotFoundError(name)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  with pytest.raises(UserError):
    runner.run(cls, pipeline=plain(), controlnet='me/net')
  assert called == [True]


def test_the_annotators_are_those_of_the_library(nodes):
  (names, _) = nodes['SanaJaxControl'].INPUT_TYPES()['required']['annotator']
  assert names == ['none', *annotators.OF_IMAGES]
  (_, about) = nodes['SanaJaxLora'].INPUT_TYPES()['required']['strength']
  assert about['max'] == -about['min'] == adapters.MOST_WEIGHT


def test_a_control_image_needs_a_net(nodes):
  with pytest.raises(UserError) as error:
    runner.run(
      nodes['SanaJaxSample'], pipeline=plain(), control=control(nodes), **SMALL
    )
  assert error.value.key == 'control_image'


@pytest.mark.long
def test_both_sampling_nodes_use_weights_and_control_images(nodes, style):
  used = control(nodes, strength=0.75, end_percent=0.5)
  pipeline = lora(nodes, controlled(), style, 0.5)
  (got,) = runner.run(
    nodes['SanaJaxSample'], pipeline=pipeline, control=used, **SMALL
  )
  want = pipeline(
    'a cat',
    height=16,
    width=16,
    steps=2,
    seed=5,
    control_image=np.round(SCENE[0] * 255).astype(np.uint8),
    control={'scale': 0.75, 'end': 0.5},
    output_type='uint8',
  ).images
  assert np.abs(got * 255 - np.float32(want)).max() < 1.01
  (alone,) = runner.run(nodes['SanaJaxSample'], pipeline=pipeline, **SMALL)
  assert np.abs(alone - got).max() > 0.01
  with demo_server.running(pipe=lora(nodes, controlled(), style)) as demo:
    (weights,) = runner.run(nodes['SanaJaxServerLora'], name='x', strength=2)
    (weights,) = runner.run(
      nodes['SanaJaxServerLora'], name=' style ', strength=0.5, lora=weights
    )
    server = {'server': demo.root, 'control': used, **SMALL}
    with pytest.raises(RuntimeError, match='no adapter'):
      runner.run(nodes['SanaJaxServer'], lora=weights, **server)
    del weights['x']
    images, _ = runner.run(nodes['SanaJaxServer'], lora=weights, **server)
  assert np.abs(images - got).max() <= 1.01 / 255
