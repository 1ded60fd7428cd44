"""Names of CLIP's tensors in transformers' and in OpenAI's files."""

from collections.abc import Collection, Mapping

import numpy as np

from sana_jax.weights.table import Rule
from sana_jax.weights.tensors import as_stored, Stored
from sana_jax.weights.transforms import CONV, LINEAR

_QKV = ('query', 'key', 'value')
# Our layers, and their names in transformers and in OpenAI's code, whose
# attn.in_proj_weight is split by `model_tensors`.
_DENSE = {
  'query': ('self_attn.q_proj', 'attn.in_proj_query'),
  'key': ('self_attn.k_proj', 'attn.in_proj_key'),
  'value': ('self_attn.v_proj', 'attn.in_proj_value'),
  'out': ('self_attn.out_proj', 'attn.out_proj'),
  'up': ('mlp.fc1', 'mlp.c_fc'),
  'down': ('mlp.fc2', 'mlp.c_proj'),
}
_NORMS = {
  'attention_norm': ('layer_norm1', 'ln_1'),
  'mlp_norm': ('layer_norm2', 'ln_2'),
}
_BLOCKS = {
  'vision_tower': (
    'vision_model.encoder.layers',
    'visual.transformer.resblocks',
  ),
  'text_tower': ('text_model.encoder.layers', 'transformer.resblocks'),
}
_LAST_NORMS = {
  'vision_tower/pre_norm': ('vision_model.pre_layrnorm', 'visual.ln_pre'),
  'vision_tower/post_norm': ('vision_model.post_layernorm', 'visual.ln_post'),
  'text_tower/final_norm': ('text_model.final_layer_norm', 'ln_final'),
}


def _rules(kind, others):
  """Rules of transformers' names (0) or OpenAI's (1), and `others`."""

  def norm(name, path):
    return [
      Rule(f'{name}.weight', f'{path}/scale'),
      Rule(f'{name}.bias', f'{path}/bias'),
    ]

  rules = list(others)
  for tower, blocks in _BLOCKS.items():
    start = f'{blocks[kind]}.{{i}}'
    for path, names in _DENSE.items():
      name, place = f'{start}.{names[kind]}', f'{tower}/layers/{path}'
      rules += [
        Rule(f'{name}.weight', f'{place}/kernel', LINEAR),
        Rule(f'{name}.bias', f'{place}/bias'),
      ]
    for path, names in _NORMS.items():
      rules += norm(f'{start}.{names[kind]}', f'{tower}/layers/{path}')
  for path, names in _LAST_NORMS.items():
    rules += norm(names[kind], path)
  return tuple(rule.under('params') for rule in rules)


RULES = _rules(
  0,
  [
    Rule('vision_model.embeddings.class_embedding', 'vision_tower/class_token'),
    Rule(
      'vision_model.embeddings.patch_embedding.weight',
      'vision_tower/patches/kernel',
      CONV,
    ),
    Rule(
      'vision_model.embeddings.position_embedding.weight',
      'vision_tower/positions',
    ),
    Rule(
      'text_model.embeddings.token_embedding.weight',
      'text_tower/embed/embedding',
    ),
    Rule(
      'text_model.embeddings.position_embedding.weight', 'text_tower/positions'
    ),
    Rule('visual_projection.weight', 'vision_projection/kernel', LINEAR),
    Rule('text_projection.weight', 'text_projection/kernel', LINEAR),
    Rule('logit_scale', 'logit_scale'),
  ],
)
OPENAI_RULES = _rules(
  1,
  [
    Rule('visual.class_embedding', 'vision_tower/class_token'),
    Rule('visual.conv1.weight', 'vision_tower/patches/kernel', CONV),
    Rule('visual.positional_embedding', 'vision_tower/positions'),
    Rule('token_embedding.weight', 'text_tower/embed/embedding'),
    Rule('positional_embedding', 'text_tower/positions'),
    Rule('visual.proj', 'vision_projection/kernel'),
    Rule('text_projection', 'text_projection/kernel'),
    Rule('logit_scale', 'logit_scale'),
  ],
)
# What neither of the two needs: numbers from 0, and sizes in TorchScript.
_UNUSED = (
  'text_model.embeddings.position_ids',
  'vision_model.embeddings.position_ids',
  'input_resolution',
  'context_length',
  'vocab_size',
)


def is_openai(names: Collection[str]) -> bool:
  """Whether these are names of OpenAI's code."""
  return any(name.startswith('visual.') for name in names)


def model_tensors(
  tensors: Mapping[str, np.ndarray | Stored],
) -> dict[str, Stored]:
  """Tensors with the names of `RULES` or `OPENAI_RULES`.

  OpenAI's projection of queries, keys and values is split into three.
  """
  out = {}
  for name, tensor in as_stored(tensors).items():
    start, part, kind = name.rpartition('attn.in_proj_')
    rows = tensor.shape[0] if tensor.shape else 0
    if name in _UNUSED:
      continue
    if not part or rows % 3:
      out[name] = tensor
      continue
    for i, own in enumerate(_QKV):
      third = tensor.rows(i * rows // 3, (i + 1) * rows // 3)
      out[f'{start}{part}{own}.{kind}'] = third
  return out
