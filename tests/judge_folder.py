"""A tiny folder of NVILA with random weights, as NVlabs/VILA writes one."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from sana_jax.weights import nvila, table
from sana_jax.weights.safetensors_files import write_file
from sana_jax.weights.tensors import stored

SIDE = 28
ADDED = '<|endoftext|>', '<|im_start|>', '<|im_end|>', '<image>'
TEMPLATE = (
  "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
  "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
  "{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'}}"
  '{% endfor %}{% if add_generation_prompt %}'
  "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = [('y', 'e'), ('ye', 's'), ('n', 'o')]


def vocabulary() -> dict[str, int]:
  """All bytes in the spelling of byte-level BPE, and a few words."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  words = [*alphabet, *map(''.join, MERGES)]
  return {word: i for i, word in enumerate(words)}


YES, NO = (vocabulary()[word] for word in ('yes', 'no'))
VOCABULARY = len(vocabulary()) + len(ADDED) + 3
CONFIGS = {
  'vision_tower': dict(
    model_type='siglip_vision_model',
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=7,
  ),
  'mm_projector': dict(
    model_type='v2l_projector', mm_projector_type='mlp_downsample_3x3_fix'
  ),
  'llm': dict(
    model_type='qwen2',
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
  ),
}
ROOT = dict(
  image_aspect_ratio='resize',
  mm_vision_select_layer=-2,
  mm_vision_select_feature='cls_patch',
  model_dtype='torch.bfloat16',
)


def params(configs, maps=1, seed=0):
  """(rules, random parameters) of the configs."""
  module, rules = nvila.assembled(configs, maps, jnp.float32)
  shapes = nvila.shapes(module, maps)['params']
  rng = np.random.default_rng(seed)
  fill = lambda s: np.float32(
    rng.normal(size=s.shape) * (0.5 if len(s.shape) < 3 else 0.2)
  )
  return rules, jax.tree.map(fill, shapes)


def tensors(configs, maps=1, seed=0, answer=None) -> dict[str, np.ndarray]:
  """Tensors of all parts with the names of a flat file.

  Args:
    answer: token that is the answer to everything, or 'either': yes or no.
  """
  rules, values = params(configs, maps, seed)
  found = table.save(rules, values)
  extra = 'vision_tower.vision_model.'
  layer = 'vision_tower.encoder.layers.'
  found |= {  # The last layer and the norm, which are not used.
    f'{layer}1.{key.split(".0.", 1)[1]}': x
    for key, x in list(found.items())
    if key.startswith(f'{layer}0.')
  }
  found['vision_tower.post_layernorm.weight'] = np.ones(12, np.float32)
  found['vision_tower.post_layernorm.bias'] = np.ones(12, np.float32)
  if answer is not None:
    _answer(found, answer)
  return {
    key.replace('vision_tower.', extra, 1): np.ascontiguousarray(x)
    for key, x in found.items()
  }


def _answer(found, answer):
  """Makes the most likely first token certain."""
  table = found['llm.model.embed_tokens.weight']
  if answer == 'either':
    table[[YES, NO]] = 300 * table[[YES]] * [[1], [-1]]
    return
  # Without layers, the state is that of the text's last token, a newline.
  for key, x in found.items():
    if key.endswith(('o_proj.weight', 'down_proj.weight')):
      x[...] = 0
  found['llm.model.norm.weight'][...] = 1
  table[answer] = 10 * table[vocabulary()['Ċ']]


def write(
  folder: pathlib.Path, root=(), configs=(), flat=False, seed=0, answer=None
) -> pathlib.Path:
  """Writes a folder; `root` and `configs` are changes."""
  root = ROOT | dict(root)
  configs = {k: v | dict(configs).get(k, {}) for k, v in CONFIGS.items()}
  sizes = root.get('s2_scales')
  uses = root.get('s2') or root.get('dynamic_s2')
  maps = len(sizes.split(',')) if sizes and uses else 1
  values = tensors(configs, maps, seed, answer)
  folder.mkdir(parents=True, exist_ok=True)
  _json(folder / 'config.json', root)
  for part, config in configs.items():
    (folder / part).mkdir(exist_ok=True)
    _json(folder / part / 'config.json', config)
    if not flat:
      own = {
        k.removeprefix(f'{part}.'): stored(x)
        for k, x in values.items()
        if k.startswith(f'{part}.')
      }
      write_file(folder / part / 'model.safetensors', own)
  if flat:
    whole = {k: stored(x) for k, x in values.items()}
    write_file(folder / 'model.safetensors', whole)
  _json(
    folder / 'vision_tower' / 'preprocessor_config.json',
    {'size': {'height': SIDE, 'width': SIDE}, 'resample': 2},
  )
  tokenizer(folder / 'llm')
  return folder


def tokenizer(folder: pathlib.Path) -> None:
  """Writes a byte-level tokenizer of Qwen2's class."""
  words = vocabulary()
  _json(folder / 'vocab.json', words)
  lines = ['#version: 0.2', *map(' '.join, MERGES)]
  (folder / 'merges.txt').write_text('\n'.join(lines) + '\n')
  added = {
    str(len(words) + i): {'content': token, 'special': True}
    for i, token in enumerate(ADDED)
  }
  _json(
    folder / 'tokenizer_config.json',
    {
      'tokenizer_class': 'Qwen2Tokenizer',
      'added_tokens_decoder': added,
      'chat_template': TEMPLATE,
    },
  )


def _json(path, value):
  path.write_text(json.dumps(value))
