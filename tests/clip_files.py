"""Folders of a tiny CLIP with random weights, as transformers writes them."""

import json

import jax
import numpy as np
import tokenizers

from sana_jax.models import abstract
from sana_jax.models.clip import CLIP
from sana_jax.weights import clip as weights
from sana_jax.weights import clip_rules, safetensors_files, table
from sana_jax.weights.tensors import as_stored

PAIRS = [
  ('c', 'a'),
  ('ca', 't</w>'),
  ('r', 'e'),
  ('re', 'd</w>'),
  ('l', 'l'),
  ("'", 's</w>'),
  ('1', '2</w>'),  # Never used: each digit is a word.
  ('!', '!</w>'),
]
CONFIG = {
  'model_type': 'clip',
  'projection_dim': 24,
  'vision_config': {
    'hidden_size': 32,
    'intermediate_size': 40,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'image_size': 16,
    'patch_size': 8,
  },
  'text_config': {
    'hidden_size': 16,
    'intermediate_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'vocab_size': 522,
    'max_position_embeddings': 20,
    'eos_token_id': 521,
  },
}


def vocabulary():
  """Tokens by id: bytes, bytes at the end of words, merges, special tokens."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  words = [
    *alphabet,
    *(x + '</w>' for x in alphabet),
    *map(''.join, PAIRS),
    '<|startoftext|>',
    '<|endoftext|>',
  ]
  return {word: i for i, word in enumerate(words)}


def shapes(config):
  """The model's parameters."""
  return abstract.clip(CLIP(**weights.fields_from_transformers(config)))


def tensors(config=CONFIG):
  """Random arrays with transformers' names."""
  rng = np.random.default_rng(0)
  fill = lambda s: (rng.normal(size=s.shape) / 4).astype(np.float32)
  return table.save(clip_rules.RULES, jax.tree.map(fill, shapes(config)))


def write_weights(path, arrays):
  """Writes a safetensors file."""
  stored = as_stored({k: np.array(x, order='C') for k, x in arrays.items()})
  safetensors_files.write_file(path, stored)


def write_tokenizer(folder, whole=False):
  """Writes tokenizer.json, or vocab.json and merges.txt."""
  vocab = vocabulary()
  if whole:
    model = {'type': 'BPE', 'vocab': vocab, 'merges': PAIRS}
    added = [{'id': 521, 'content': '<|endoftext|>'}]
    text = json.dumps({'model': model, 'added_tokens': added})
    (folder / 'tokenizer.json').write_text(text)
    return
  lines = ['#version: 0.2', *map(' '.join, PAIRS), '']
  (folder / 'vocab.json').write_text(json.dumps(vocab))
  (folder / 'merges.txt').write_text('\n'.join(lines), encoding='utf-8')


def write(folder, config=CONFIG):
  """Writes a whole model; returns the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  write_weights(folder / 'model.safetensors', tensors(config))
  write_tokenizer(folder)
  return folder
