"""Files for diffusers: their keys, and the fields of their header."""

import json

from lora_files import assert_same, MODEL, POINT, QKV, random
import pytest
from safetensors import safe_open

from sana_jax.weights.lora import reading, writing


def written(path, updates):
  writing.write_file(path / writing.FILE, updates)
  with safe_open(path / writing.FILE, 'numpy') as file:
    shapes = {key: file.get_tensor(key).shape for key in file.keys()}  # noqa: SIM118
    return shapes, file.metadata()


@pytest.mark.parametrize('dora', [False, True])
def test_a_written_file_is_read_again(dora, tmp_path):
  updates = random(rank=3, scale=1.5, dora=dora)
  written(tmp_path, updates)
  assert_same(reading.read(tmp_path, MODEL), updates)


def test_keys_and_shapes_are_those_of_peft(tmp_path):
  shapes, metadata = written(tmp_path, random([QKV[0], POINT], dora=True))
  assert shapes == {
    f'transformer.{QKV[0]}.lora_A.weight': (2, 24),
    f'transformer.{QKV[0]}.lora_B.weight': (24, 2),
    f'transformer.{QKV[0]}.lora_magnitude_vector': (24,),
    f'transformer.{POINT}.lora_A.weight': (2, 60, 1, 1),
    f'transformer.{POINT}.lora_B.weight': (24, 2, 1, 1),
    f'transformer.{POINT}.lora_magnitude_vector': (1, 24, 1, 1),
  }
  assert metadata['format'] == 'pt'
  assert json.loads(metadata['lora_adapter_metadata']) == {
    'transformer.r': 2,
    'transformer.lora_alpha': 2,
    'transformer.target_modules': ['attn1.to_q', 'ff.conv_point'],
    'transformer.use_dora': True,
  }


def test_other_ranks_and_alphas_are_patterns():
  updates = random(QKV, rank=2) | random(['proj_out'], rank=4, scale=0.5)
  other = 'transformer_blocks.0.attn1.to_q'
  updates |= random([other], rank=3)
  assert writing.header(updates) == {
    'r': 2,
    'lora_alpha': 2,
    'target_modules': ['attn1.to_k', 'attn1.to_q', 'attn1.to_v', 'proj_out'],
    # Both blocks by number, as they differ.
    'rank_pattern': {other: 3, 'proj_out': 4},
    'alpha_pattern': {other: 3},
  }


def test_mixed_ranks_survive_a_file(tmp_path):
  updates = random(QKV, rank=2, scale=0.7) | random(['proj_out'], rank=5)
  updates |= random(['transformer_blocks.0.attn1.to_q'], rank=1, scale=3.0)
  written(tmp_path, updates)
  assert_same(reading.read(tmp_path, MODEL), updates)
