"""Models of diffusers with random adapters of peft, and sana_jax's of them."""

import pathlib
import tempfile
import warnings

import jax.numpy as jnp
import peft
import torch

from sana_jax.tools.parity import references, sana
from sana_jax.tools.parity.lora_rows import Row
from sana_jax.tools.parity.sana import Inputs, MASKS, TINY
from sana_jax.weights.lora import reading, writing


def model(row: Row, seed):
  """diffusers' model with random adapters, and its inputs."""
  config = {**TINY, **row.model}
  theirs = sana.make(config, seed)
  for i, adapter in enumerate(row.adapters):
    add(theirs, adapter, f'a{i}')
  return config, theirs, Inputs.draw(seed, config, MASKS['partial'])


def add(model, adapter, name):
  settings = dict(r=2, lora_alpha=2, init_lora_weights=False)
  with warnings.catch_warnings():  # About a second one, which is meant.
    warnings.filterwarnings('ignore', 'Already found a `peft_config`')
    model.add_adapter(peft.LoraConfig(**settings | adapter.config), name)
  with torch.no_grad():
    for key, p in model.named_parameters():
      if f'.{name}.' not in key:
        continue
      if 'magnitude' in key:
        p.mul_(torch.empty_like(p).uniform_(0.7, 1.4))
      elif 'lora_' in key:
        # Larger updates amplify rounding.
        p.normal_(std=0.5 * p[0].numel() ** -0.5)


def converted(config, theirs):
  """sana_jax's model with the base weights of a reference with adapters."""
  tensors = {
    key.replace('.base_layer.', '.'): x
    for key, x in references.weights(theirs).items()
    if 'lora_' not in key
  }
  return sana.converted(config, tensors, jnp.float32)


def updates(theirs, module, name='a0'):
  """One adapter, from a file that diffusers writes."""
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_lora_adapter(folder, adapter_name=name)
    return reading.read(pathlib.Path(folder) / writing.FILE, module)
