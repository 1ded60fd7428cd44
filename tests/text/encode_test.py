"""Tokenization of prompts, and the window of tokens that SANA uses."""

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.models.gemma2 import Gemma2
from sana_jax.text import encode, tokenizer

INSTRUCTION = 'say more:\nprompt: '
PROMPTS = [' A red Circle ', 'two blue squares', '']


class Positions(nn.Module):
  """Text encoder whose states are the token and its position."""

  def __call__(self, ids, mask):
    return jnp.stack(
      jnp.broadcast_arrays(ids, jnp.arange(ids.shape[1])), axis=-1
    ).astype(jnp.float32)


@pytest.fixture(scope='module')
def words():
  return tokenizer.train([INSTRUCTION + p.lower() for p in PROMPTS] * 2, 340)


def test_without_an_instruction_prompts_are_cleaned_and_padded(words):
  ids, mask = encode.tokenize(words, PROMPTS, length=6)
  assert ids.shape == mask.shape == (3, 6)
  text = words.decode(ids[0], skip_special_tokens=True)
  assert text == 'a red circle'
  np.testing.assert_array_equal(mask[2], [True] + [False] * 5)
  np.testing.assert_array_equal(ids[2], [2, 0, 0, 0, 0, 0])


def test_the_instruction_lengthens_the_text_by_its_own_tokens(words):
  n = len(words.encode(INSTRUCTION))
  ids, mask = encode.tokenize(
    words, PROMPTS, instruction=INSTRUCTION, length=20
  )
  assert ids.shape == (3, n + 20 - 2)
  for row, real, prompt in zip(ids, mask, PROMPTS):
    want = words.encode(INSTRUCTION + prompt.lower().strip())
    assert row[real].tolist() == want
    assert real.tolist() == [True] * len(want) + [False] * (
      len(row) - len(want)
    )


def test_longer_prompts_are_truncated_at_the_end(words):
  ids, mask = encode.tokenize(words, ['red ' * 50], length=8)
  assert mask.all()
  assert ids[0].tolist() == words.encode('red ' * 50)[:8]


def test_the_window_is_the_first_and_the_last_positions():
  x = jnp.arange(10)[None]
  assert encode.window(x, 4).tolist() == [[0, 7, 8, 9]]
  assert encode.window(x, 10).tolist() == [list(range(10))]
  assert encode.window(x, 1).tolist() == [[0]]


def test_embeddings_begin_at_bos_and_where_the_prompt_begins(words):
  states, mask = encode.encode(
    Positions(), {}, words, PROMPTS, instruction=INSTRUCTION, length=9
  )
  n = len(words.encode(INSTRUCTION))
  assert states.shape == (3, 9, 2)
  np.testing.assert_array_equal(states[0, :, 1], [0, *range(n - 1, n + 7)])
  np.testing.assert_array_equal(mask[0], np.asarray(states[0, :, 0]) != 0)
  prompt = words.decode(
    np.asarray(states[0, 1:, 0], int), skip_special_tokens=True
  )
  assert prompt == ' a red circle'


@pytest.mark.long
def test_a_cached_instruction_gives_the_same_embeddings(words):
  model = Gemma2(
    vocab_size=len(words),
    width=8,
    depth=2,
    heads=2,
    kv_heads=1,
    head_dim=4,
    hidden=6,
    query_scale=4,
  )
  ids, mask = encode.tokenize(words, PROMPTS, instruction=INSTRUCTION, length=9)
  params = model.init(
    jax.random.key(np.random.default_rng().integers(1000)),
    jnp.asarray(ids),
    jnp.asarray(mask),
  )['params']
  run = functools.partial(
    encode.encode,
    model,
    params,
    words,
    PROMPTS,
    instruction=INSTRUCTION,
    length=9,
  )
  want, want_mask = run()
  prefix_cache = {}
  for _ in range(2):  # It is read, then taken from there.
    got, got_mask = run(prefix_cache=prefix_cache)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got_mask, want_mask)
    assert len(prefix_cache) == 1


@pytest.mark.long
def test_importing_does_not_import_transformers():
  subprocess.run(
    [
      sys.executable,
      '-c',
      'import sana_jax.text.encode; '
      'import sana_jax.text.tokenizer, sys; '
      'assert "transformers" not in sys.modules',
    ],
    check=True,
  )
