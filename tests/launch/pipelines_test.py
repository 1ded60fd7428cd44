"""Settings that no flag gives: one default for every interface."""

import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from sana_jax import Pipeline
from sana_jax.inference import demo
from sana_jax.launch import cli as commands
from sana_jax.launch import pipelines

PROMPT = 'a red circle'
RECOMMENDED = {'steps': 1, 'guidance_scale': 3.0}


@pytest.fixture
def model(tiny_sana, tmp_path):
  """A copy of the model that recommends other settings than the usual."""
  folder = shutil.copytree(tiny_sana, tmp_path / 'model')
  path = folder / 'model_index.json'
  index = json.loads(path.read_text()) | {'_sana_jax': RECOMMENDED}
  path.write_text(json.dumps(index))
  return folder


def pixels(file):
  with Image.open(file) as image:
    return np.asarray(image), image.text


@pytest.mark.long
def test_python_sample_and_the_demo_have_the_same_defaults(
  model, cli, tmp_path
):
  pipe = Pipeline.from_pretrained(model, 'float32')
  (want,) = pipe(PROMPT, seed=0, output_type='uint8').images
  explicit = pipe(PROMPT, seed=0, output_type='uint8', **RECOMMENDED)
  np.testing.assert_array_equal(explicit.images, [want])

  out = tmp_path / 'out'
  flags = '--model', model, '--prompt', PROMPT, '--out', out
  code, _, err = cli('sample', *flags)
  assert code == 0, err
  (file,) = out.glob('00000*.png')
  found, about = pixels(file)
  np.testing.assert_array_equal(found, want)
  assert (about['steps'], about['guidance_scale']) == ('1', '3.0')

  parser = commands.build_parsers('demo')[1]
  args = parser.parse_args(['--model', str(model)])
  settings = pipelines.settings_of(args, pipe)
  assert settings == RECOMMENDED | {'sampler': pipe.sampler}
  height, width = want.shape[:2]
  (drawn,) = demo.draw(
    pipe,
    demo.DrawRequest(
      prompt=PROMPT,
      negative_prompt='',
      width=width,
      height=height,
      seed=0,
      num_images=1,
      **settings,
    ),
    demo.Limits(size_px=64),
    'tiny',
  )
  np.testing.assert_array_equal(pixels(io.BytesIO(drawn.content))[0], want)
