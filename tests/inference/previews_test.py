"""Previews change no byte, compile nothing per request, and are bounded."""

import io
import threading

import numpy as np
from PIL import Image
import pytest

from sana_jax.inference import decoding, demo, denoising, previews
from sana_jax.inference.demo import DrawRequest, Limits
from sana_jax.inference.previews import Previewer

LIMITS = Limits(size_px=64, steps=30, images=4)
REQUEST = DrawRequest('a red circle', '', 16, 24, 10, 4.5, 7, 2, 'dpm++2m')


def drawn(pipe, on_estimate=None, request=REQUEST):
  return demo.drawn(
    pipe, request, LIMITS, 'tiny', threading.Event(), on_estimate=on_estimate
  )


def programs():
  """The number of compiled programs of each function."""
  functions = (
    denoising._advance,
    denoising._estimate,
    decoding._decode,
    decoding.to_uint8,
  )
  return [f._cache_size() for f in functions]


@pytest.mark.long
def test_files_are_the_same_with_and_without_previews(pipe):
  shown = []
  previewer = Previewer(pipe, 4)
  for _ in range(2):
    watch = previewer.watch(10, (24, 16), lambda *x: shown.append(x))
    got = drawn(pipe, watch).files
  assert got == drawn(pipe).files
  assert [done for done, _ in shown[:2]] == [2, 4]
  for _, files in shown:
    for file in files:
      with Image.open(io.BytesIO(file)) as image:
        assert image.size == (16, 24) and image.format == 'JPEG'


@pytest.mark.long
def test_requests_compile_no_programs_after_the_first(pipe):
  previewer = Previewer(pipe, 4)
  counts = []
  for seed in range(3):
    watch = previewer.watch(10, (24, 16), lambda *x: None)
    drawn(pipe, watch, REQUEST._replace(seed=seed))
    counts.append(programs())
  drawn(pipe)
  assert counts[0] == counts[1] == counts[2] == programs()


@pytest.mark.fast
@pytest.mark.parametrize(
  'steps, most, expected',
  [
    (20, 4, {4, 8, 12, 16}),
    (50, 4, {10, 20, 30, 40}),
    (2, 4, {1}),
    (1, 4, set()),
    (20, 0, set()),
    (1000, 1, {500}),
  ],
)
def test_few_steps_have_a_preview_and_never_the_last(steps, most, expected):
  assert previews.steps_of(steps, most) == expected
  watch = Previewer(None, most).watch(steps, (8, 8), print)
  assert (watch is None) == (not expected)


@pytest.mark.fast
def test_a_slow_decoder_takes_a_quarter_of_the_time_at_most(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(previews.time, 'monotonic', lambda: clock[0])
  monkeypatch.setattr(previews, '_jpeg', lambda pixels: b'')
  monkeypatch.setattr(decoding, 'to_uint8', lambda images: images)
  shown = []

  class Decoder:
    def decode(self, latents, size):
      clock[0] += cost
      return latents

  def requested(steps=20):
    shown.clear()
    watch = previewer.watch(steps, (8, 8), lambda *x: shown.append(x))
    start = clock[0]
    for done in range(1, steps + 1):
      clock[0] += 1.0
      watch(done, lambda: pixels)
    return clock[0] - start - steps

  pixels = np.zeros((1, 8, 8, 3), np.uint8)
  previewer = Previewer(Decoder(), 4)
  cost = 30.0  # Compiled.
  requested(2)
  for cost, most in ((0.1, 4), (1.0, 4), (3.0, 2), (50.0, 1)):
    previewer._seconds = {k: None for k in previewer._seconds}
    requested()  # The cost is found.
    spent = requested()
    assert len(shown) <= most
    assert spent <= 0.25 * (20 + spent)
    assert (cost < 10) == bool(shown)
