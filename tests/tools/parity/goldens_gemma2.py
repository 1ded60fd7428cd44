"""Writes tests/golden/gemma2.safetensors, made by transformers alone.

  python tests/tools/parity/goldens_gemma2.py  (needs the parity extra)

A tiny Gemma2ForCausalLM with random weights: tensors in its own names, its
config, token ids with padding, all hidden states and the logits.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy
import torch
import transformers

CONFIG = dict(
  vocab_size=48,
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=10,
  query_pre_attn_scalar=7,
  sliding_window=4,
)
OUT = pathlib.Path(__file__).parents[2] / 'golden' / 'gemma2.safetensors'


def main():
  torch.manual_seed(0)
  model = transformers.Gemma2ForCausalLM(
    transformers.Gemma2Config(**CONFIG)
  ).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.copy_(torch.randn_like(p) * (0.5 if p.ndim == 1 else 0.3))
    ids = torch.randint(3, 48, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.int64)
    ids[1, 6:], mask[1, 6:] = 0, 0
    out = model(ids, attention_mask=mask, output_hidden_states=True)
  tensors = model.state_dict()
  del tensors['lm_head.weight']  # Tied to the embeddings.
  tensors |= dict(
    ids=ids,
    mask=mask,
    logits=out.logits,
    hidden_states=torch.stack(out.hidden_states),
  )
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(v.numpy()) for k, v in tensors.items()},
    OUT,
    metadata={
      'made_by': 'tests/tools/parity/goldens_gemma2.py',
      'with': f'transformers {transformers.__version__}, '
      f'torch {torch.__version__}',
      'config': json.dumps(model.config.to_dict(), default=str),
    },
  )


if __name__ == '__main__':
  main()
