"""Pictures with NaN are named and listed as bad, not written as good ones."""

import contextlib
import json
import logging
import pathlib
import types

import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.inference import batches, candidates
from sana_jax.inference.batches import Request
from sana_jax.inference.decoding import NOT_FINITE
from sana_jax.inference.jobs import Job
from sana_jax.inference.pipeline import Pipeline
from sana_jax.launch import drawing

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'


class Fake:
  """Draws gray pictures, with one NaN for prompts that begin with 'bad'."""

  def draw(self, prompts, output_type='uint8', **_):
    images = np.full((len(prompts), 8, 8, 3), 0.5, np.float32)
    for image, prompt in zip(images, prompts):
      if prompt.startswith('bad'):
        image[3, 4, 1] = np.nan
    assert output_type == 'float'
    return jax.numpy.asarray(images)


def draw(tmp_path, prompts, most=1.0, shard_size=0):
  args = types.SimpleNamespace(
    candidates=1,
    max_bad_fraction=most,
    shard_size=shard_size,
    scorer=None,
    batch_size=2,
    format='png',
    model='fake',
    lora=[],
  )
  jobs = [Job(p, height=8, width=8, line=i) for i, p in enumerate(prompts, 1)]
  lock = types.SimpleNamespace(check=lambda: None)
  return drawing.draw(Fake(), jobs, {}, args, tmp_path, lock, {})


def lines(tmp_path):
  text = (tmp_path / 'results.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


PROMPTS = ['a', 'bad b', 'c', 'd', 'bad e']


@pytest.mark.parametrize('shard_size', [0, 5])
def test_bad_pictures_are_listed_and_not_written(shard_size, tmp_path):
  made, failed = draw(tmp_path, PROMPTS, shard_size=shard_size)
  assert made == 3
  assert failed == {2: NOT_FINITE, 5: NOT_FINITE}
  found = {line['prompt']: line.get('bad') for line in lines(tmp_path)}
  assert found == {
    p: NOT_FINITE if p.startswith('bad') else None for p in PROMPTS
  }
  assert not list(tmp_path.rglob('*bad*.png'))


def test_a_restart_tries_bad_pictures_again_and_lists_them_once(tmp_path):
  for _ in range(2):
    draw(tmp_path, PROMPTS)
  assert len(lines(tmp_path)) == len(PROMPTS)


def test_too_many_bad_pictures_end_the_run(tmp_path):
  with pytest.raises(UserError) as error:
    draw(tmp_path, PROMPTS, most=0.2)
  assert error.value.key == '--max-bad-fraction'
  assert error.value.value == 0.2
  assert error.value.allowed == '0.4 or more'
  assert '00001-0-bad-b.png' in str(error.value)
  bad = [line['prompt'] for line in lines(tmp_path) if 'bad' in line]
  assert bad == ['bad b', 'bad e']


def test_without_a_list_of_bad_pictures_the_error_names_the_prompt():
  with pytest.raises(UserError) as error:
    list(batches.generate(Fake(), [Request('bad x', 0)], 2))
  assert error.value.key == '--dtype'
  assert "'bad x'" in str(error.value)


def test_good_pictures_are_8_bit_and_in_order():
  found = list(
    batches.generate(
      Fake(),
      [Request(p, 0) for p in PROMPTS],
      2,
      on_bad=lambda *_: None,
    )
  )
  assert [indices for indices, _ in found] == [[0], [2, 3]]
  for _, images in found:
    assert images.dtype == np.uint8
    assert (np.asarray(images) == 128).all()


def test_a_prompt_with_a_bad_candidate_has_no_choice():
  bad = []
  found = candidates.generate(
    Fake(),
    [Request(p, 0) for p in ('a', 'bad b', 'c')],
    2,
    [1, 1, 1],
    lambda prompt, images: [float(np.mean(i)) for i in images],
    2,
    on_bad=lambda i, reason: bad.append((i, reason)),
  )
  with contextlib.closing(found):
    assert [i for i, _ in found] == [0, 2]
  assert bad == [(1, NOT_FINITE)]


@pytest.mark.long
def test_nan_in_the_latents_is_found_in_the_pictures(caplog):
  pipe = Pipeline.from_pretrained(GOLDEN, 'float32')
  broken = pipe.replace(
    transformer=pipe.transformer._replace(
      variables=jax.tree.map(lambda x: x * np.nan, pipe.transformer.variables)
    )
  )
  with pytest.raises(UserError, match='NaN'):
    list(
      batches.generate(
        broken, [Request('a', 0, height=32, width=32)], 1, steps=2
      )
    )
  with caplog.at_level(logging.WARNING):
    broken('a', height=32, width=32, steps=2)
    pipe('a', height=32, width=32, steps=2)
  (record,) = caplog.records
  assert 'NaN' in record.getMessage() and '0 of 1' in record.getMessage()
