"""The instruction is exactly that of the published weights."""

import hashlib

import pytest

from sana_jax.text import prompts

pytestmark = pytest.mark.fast


def digest(text):
  return len(text), hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_instruction_is_that_of_diffusers():
  assert len(prompts.INSTRUCTION_LINES) == 8
  assert digest(prompts.INSTRUCTION) == (1057, '48290080bb4fd4a2')


def test_the_official_instruction_differs_in_two_quotes_only():
  pairs = list(zip(prompts.INSTRUCTION, prompts.OFFICIAL_INSTRUCTION))
  assert len(prompts.OFFICIAL_INSTRUCTION) == 1057
  assert [p for p in pairs if p[0] != p[1]] == [("'", '"')] * 2


def test_cleaning_lowers_and_strips():
  assert prompts.clean('  A Red\tCIRCLE \n') == 'a red\tcircle'
