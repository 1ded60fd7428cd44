"""The shipped Sprint: its guidance scale and its single step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.data.shapes import controls, render, scene
from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import TrigFlow
from sana_jax.evaluation import shapes_control, shapes_detector, shapes_suite
from sana_jax.inference.pipeline import Pipeline
from sana_jax.models.autoencoders import base as autoencoders
from sana_jax.objectives import consistency
from sana_jax.objectives.reconstruction import to_signed
from sana_jax.tasks.sana import encoders
from sana_jax.text.prompts import INSTRUCTION

pytestmark = pytest.mark.long
COUNT, ANGLE = 64, 0.3


def pipes():
  """Pipelines of the student and its teacher, with the image encoder."""
  load = lambda name: Pipeline.from_pretrained(name, 'float32', encoder=True)
  return load('shapes-sprint'), load('shapes')


def embedded(pipe, captions):
  return encoders.encode_captions(
    pipe.text_encoder,
    pipe.tokenizer,
    captions,
    INSTRUCTION,
    300,
    {},
    jnp.asarray,
  )


def rms(x):
  return float(jnp.sqrt(jnp.mean(x**2)))


def test_the_guidance_scale_moves_it_as_it_moves_the_guided_teacher():
  student, teacher = pipes()
  scenes = [scene(0, 'heldout', i) for i in range(COUNT)]
  images = np.stack([render(one, 128) for one in scenes])
  module, variables = student.autoencoder
  data = autoencoders.encode(module, variables, to_signed(jnp.asarray(images)))
  text, mask = embedded(student, [one.caption for one in scenes])
  null_text, null_mask = (x[0] for x in embedded(student, ['']))
  path, t = TrigFlow(), jnp.full(COUNT, ANGLE)
  noise = jax.random.normal(jax.random.key(0), data.shape)
  x = path.interpolate(data, noise, t)
  sprint, plain = (
    Denoiser(p.transformer.module, path) for p in (student, teacher)
  )
  frozen = {
    'teacher': teacher.transformer.variables['params'],
    'null_text': null_text,
    'null_mask': null_mask,
  }
  words = consistency.Condition(text, mask)

  @jax.jit
  def both(scale):
    scales = jnp.full(COUNT, scale)
    ours = sprint(
      student.transformer.variables['params'],
      x,
      t,
      words._replace(guidance=scales),
    ).velocity()
    return ours, consistency.guided(plain, frozen, x, t, words, scales)

  (low, their_low), (high, their_high) = both(2.0), both(4.0)
  print(rms(high - low), rms(their_high - their_low))
  assert rms(high - low) >= 0.2 * rms(their_high - their_low)


def test_most_pictures_of_one_step_follow_their_prompts():
  pipe = Pipeline.from_pretrained('shapes-sprint', 'float32')
  prompts = shapes_suite.prompts(8)
  images = pipe.draw(
    [p.text for p in prompts],
    steps=1,
    guidance_scale=3.0,
    seed=list(range(len(prompts))),
  )
  right = [
    shapes_suite.follows(p.requirement, shapes_detector.detect(image))
    for p, image in zip(prompts, np.asarray(images))
  ]
  # Measured on 960: 89.0 %.
  assert np.mean(right) >= 0.75


def test_the_shipped_controlnet_of_its_teacher_moves_its_objects():
  pipe = pipes()[0].with_controlnet('shapes-control')
  scenes = shapes_control.suite(per_kind=2)
  captions = [x.caption for x in scenes]
  images = [controls.masks(x, pipe.size_px) for x in scenes]
  overlaps = {
    scale: shapes_control.score(
      pipe.draw(
        captions,
        control_image=images,
        control={'scale': scale},
        steps=2,
        seed=0,
      ),
      scenes,
    ).overlap
    for scale in (0.0, 1.0)
  }
  # Free positions: without a net, objects overlap by chance.
  assert overlaps[0.0] < 0.5 and overlaps[1.0] > 0.65, overlaps
