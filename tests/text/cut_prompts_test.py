"""Prompts over the length are reported wherever they are encoded."""

import logging

from flax import linen as nn
import pytest

from sana_jax.inference import texts
from sana_jax.tasks.sana import encoders
from sana_jax.text import encode, tokenizer

pytestmark = pytest.mark.fast

INSTRUCTION = 'say more:\nprompt: '
LONG = 'red ' * 400


@pytest.fixture(scope='module')
def words():
  return tokenizer.train([INSTRUCTION + 'a red circle'] * 2, 340)


@pytest.fixture
def warned(caplog, monkeypatch):
  """Warnings of this test; those that are rate-limited are not held back."""
  log = lambda level, text, _, *args: logging.getLogger('absl').log(
    logging.WARNING, text, *args
  )
  monkeypatch.setattr(encode.logging, 'log_every_n_seconds', log)
  with caplog.at_level(logging.WARNING):
    yield lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize('instruction', ['', INSTRUCTION])
@pytest.mark.parametrize('extra', [-1, 0, 1, 2])
def test_only_prompts_over_the_length_are_cut(extra, instruction, words):
  # One token for <bos> and one a word.
  prompt = ' '.join(['red'] * (8 - 1 + extra))
  _, mask = encode.tokenize(words, [prompt], instruction=instruction, length=8)
  found = encode.cut_prompts(words, [prompt], mask, instruction=instruction)
  tokens = len(words.encode(instruction + prompt))
  if instruction:
    tokens -= len(words.encode(instruction)) - 2
  assert found == ({prompt: tokens} if tokens > 8 else {})


def test_sampling_names_a_prompt_that_is_cut(words, warned):
  assert texts.text_length(words, ['red', LONG], '') == encode.LENGTH
  (message,) = warned()
  assert f'{len(words.encode(LONG.strip()))} tokens' in message
  assert 'the first 300 are used' in message


def test_sampling_is_silent_about_prompts_that_fit(words, warned):
  texts.text_length(words, ['red', 'a red circle'], INSTRUCTION)
  assert not warned()


def test_caches_and_online_text_name_captions_that_are_cut(words, warned):
  encoders.needed_length(words, ['red', LONG], INSTRUCTION, 16)
  online = encoders.OnlineText(nn.Dense(1), words, INSTRUCTION, 16)
  online.tokens('red')
  assert len(warned()) == 1
  online.tokens(LONG)
  assert len(warned()) == 2
  assert all('the first 16 are used' in message for message in warned())
