"""Hostile weights of adapters and control images, over HTTP."""

import base64
import importlib.util
import io
import pathlib

import adapter_files
from controlled_pipes import controlled
import numpy as np
from PIL import Image
import pytest

pytestmark = pytest.mark.long

_spec = importlib.util.spec_from_file_location(
  'demo_server', pathlib.Path(__file__).with_name('demo_server.py')
)
demo_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(demo_server)


def png(side=16):
  file = io.BytesIO()
  Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(file, 'png')
  return file.getvalue()


IMAGE = base64.b64encode(png()).decode()
# Of a header that declares 30000 x 30000 pixels.
BOMB = png()[:16] + (30_000).to_bytes(4, 'big') * 2 + png()[24:]
ASKED = [*demo_server.ASKED, IMAGE, '', 1.0, 0.0, 1.0, 0.5]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
  path = tmp_path_factory.mktemp('lora') / 'style.safetensors'
  pipe = controlled()
  pipe = pipe.load_lora(adapter_files.write(path, pipe.transformer.module))
  with demo_server.running(pipe=pipe) as demo:
    yield demo


def test_programs_and_pages_give_weights_and_control_images(demo):
  program = {'lora': {'style': 0.5}, 'control_image': IMAGE, 'num_images': 1}
  answer = demo.draw(seconds=300, guidance_scale=4.5, seed=5, **program)
  assert answer.status == 200
  data = base64.b64decode(answer.json['pictures'][0]['png'])
  with Image.open(io.BytesIO(data)) as image:
    assert image.text['lora'] == 'style:0.5'
    assert image.text['control_scale'] == '1.0'
  with demo.page() as page:
    last = page.draw(ASKED)
  assert last['success'] and 'data-made' in str(last)
  assert IMAGE not in str(last)


@pytest.mark.parametrize(
  'changes, key',
  [
    ({'lora': {'../../etc/passwd': 1}}, 'adapter'),
    ({'lora': {'style': 1e308}}, 'weight'),
    ({'lora': {'style': 10**40}}, 'weight'),
    ({'lora': {'style': {'path': '/etc/hostname'}}}, 'weight'),
    ({'lora': [['style', 1]]}, 'lora'),
    ({'control_image': base64.b64encode(BOMB).decode()}, 'control_image'),
    ({'control_image': [IMAGE] * 9}, 'control_image'),
    ({'control_image': '/etc/hostname'}, 'control_image'),
    ({'control_image': 'file:///etc/hostname'}, 'control_image'),
    ({'control_image': {'path': '/etc/hostname'}}, 'control_image'),
    ({'control_image': IMAGE, 'height': 8}, 'control_image'),
    ({'control_image': IMAGE, 'control_scale': 1e9}, 'control_scale'),
    ({'control_image': IMAGE, 'control_annotator': 'os'}, 'control_annotator'),
    ({'control_images': [IMAGE]}, 'control_images'),
  ],
  ids=lambda x: str(x)[:40],
)
def test_each_mistake_is_one_sentence(demo, changes, key):
  answer = demo.draw(**changes)
  assert answer.status == 400
  detail = answer.json['detail']
  assert key in detail and detail.isprintable() and len(detail) < 500


def test_nan_and_too_many_values_are_no_requests(demo):
  many = ', '.join(f'"{i}": 1' for i in range(99))
  for weights in ('"style": NaN', many):
    body = f'{{"prompt": "x", "lora": {{{weights}}}}}'.encode()
    assert demo.send('POST', '/api/draw', body).status == 400


@pytest.mark.parametrize(
  'place, value',
  [(-1, 1e9), (-1, 'x'), (-1, None), (-4, -1), (-5, 'os'), (-6, '/etc/x')],
)
def test_values_of_a_page_are_checked_alike(demo, place, value):
  data = [*ASKED]
  data[place] = value
  with demo.page() as page:
    assert 'data-error' in str(page.draw(data))
    assert page.join(ASKED[:-1]).status == 400
