"""Folders of NVILA: sizes, strictness and settings."""

import json

import jax
import jax.numpy as jnp
import judge_folder
import numpy as np
import pytest
import safetensors.numpy

from sana_jax.errors import UserError
from sana_jax.models.qwen2 import Qwen2, SIZES
from sana_jax.models.siglip import SigLIP
from sana_jax.models.siglip import SIZES as TOWERS
from sana_jax.weights import nvila, table
from sana_jax.weights.nvila_config import Settings, settings_of

# Of NVILA-Lite-2B, by its parts: SigLIP-so400m at 448 px and Qwen2-1.5B.
FULL = {
  'vision_tower': dict(
    model_type='siglip_vision_model',
    hidden_size=1152,
    image_size=448,
    intermediate_size=4304,
    num_attention_heads=16,
    num_hidden_layers=27,
    patch_size=14,
  ),
  'mm_projector': dict(mm_projector_type='mlp_downsample_3x3_fix'),
  'llm': dict(
    model_type='qwen2',
    hidden_size=1536,
    intermediate_size=8960,
    num_attention_heads=12,
    num_hidden_layers=28,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    rope_theta=1000000.0,
    tie_word_embeddings=True,
    use_sliding_window=False,
    vocab_size=151936,
  ),
}


def test_the_full_size_has_the_tensors_and_parameters_of_its_parts():
  module, rules = nvila.assembled(FULL, 1, jnp.float32)
  assert module.llm == Qwen2(**SIZES['qwen2_1.5b'])
  assert module.tower == SigLIP(**TOWERS['so400m_448'])
  assert module.count(1) == 121
  shapes = nvila.shapes(module)['params']
  blank = jax.tree.map(lambda s: np.broadcast_to(np.int8(0), s.shape), shapes)
  saved = table.save(rules, blank)
  counts = {
    part: sum(key.startswith(f'{part}.') for key in saved)
    for part in nvila.PARTS
  }
  # Qwen2: embeddings, 12 of each layer and a norm.
  assert counts == {
    'vision_tower': 3 + 26 * 16,
    'mm_projector': 10,
    'llm': 1 + 28 * 12 + 1,
  }
  d, h, w, x = 1152, 1536, 4304, 10368
  layer = 4 * (d * d + d) + 2 * d * w + w + d + 4 * d
  sizes = {
    'tower': (3 * 14**2 + 1) * d + 1024 * d + 26 * layer,
    'projector': 2 * x + x * 3456 + 3456 + 2 * 3456 + 3456 * h + h + h * h + h,
    'llm': 1_543_714_304,
  }
  assert sizes == {
    name: sum(x.size for x in jax.tree.leaves(part))
    for name, part in shapes.items()
  }


def changed(folder, part, **changes):
  """Rewrites a part's tensors; None removes one."""
  path = folder / part / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path) | changes
  safetensors.numpy.save_file(
    {k: x for k, x in tensors.items() if x is not None}, path
  )


@pytest.fixture
def folder(tmp_path):
  return judge_folder.write(tmp_path / 'judge')


def load(folder):
  return nvila.load(nvila.describe(folder, jnp.float32), jnp.float32)[0]


@pytest.mark.long
@pytest.mark.parametrize(
  'part, key, shape',
  [
    ('mm_projector', 'layers.4.bias', None),
    ('llm', 'model.layers.1.mlp.up_proj.weight', None),
    ('llm', 'model.layers.2.mlp.up_proj.weight', (24, 16)),
    ('vision_tower', 'vision_model.embeddings.position_embedding.weight', (1,)),
    ('vision_tower', 'vision_model.head.other', (1,)),
    ('vision_tower', 'vision_model.encoder.layers.0.mlp.fc3.bias', (1,)),
  ],
)
def test_missing_and_unknown_tensors_are_refused(folder, part, key, shape):
  tensor = None if shape is None else np.zeros(shape, np.float32)
  changed(folder, part, **{key: tensor})
  with pytest.raises(table.WeightError) as error:
    load(folder)
  assert str(folder) in str(error.value) and len(error.value.value) == 1


@pytest.mark.long
def test_the_last_layer_and_the_head_of_the_tower_are_not_read(folder):
  before = load(folder)
  head = {
    f'vision_model.head.{key}': np.ones(2, np.float32)
    for key in ('probe', 'attention.in_proj_weight', 'mlp.fc1.bias')
  }
  changed(folder, 'vision_tower', **head)
  after = load(folder)
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert before.module.tower.depth == 1


@pytest.mark.long
def test_the_towers_own_prefix_may_be_repeated(tmp_path):
  folder = judge_folder.write(tmp_path / 'flat', flat=True)
  path = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(
    {
      k.replace('vision_tower.', 'vision_tower.vision_tower.', 1): x
      for k, x in tensors.items()
    },
    path,
  )
  whole = load(judge_folder.write(tmp_path / 'parts'))
  jax.tree.map(np.testing.assert_array_equal, load(folder), whole)


def test_a_flat_file_without_a_part_is_refused(tmp_path):
  folder = judge_folder.write(tmp_path / 'flat', flat=True)
  path = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  left = {k: x for k, x in tensors.items() if 'mm_projector' not in k}
  safetensors.numpy.save_file(left, path)
  with pytest.raises(UserError) as error:
    load(folder)
  assert error.value.key == 'mm_projector'


@pytest.mark.long
def test_configs_of_parts_may_be_within_the_first(folder):
  root = json.loads((folder / 'config.json').read_text())
  for part in nvila.PARTS:
    path = folder / part / 'config.json'
    root[f'{part}_cfg'] = json.loads(path.read_text())
    path.unlink()
  (folder / 'config.json').write_text(json.dumps(root))
  assert load(folder).module.llm.width == 16


@pytest.mark.fast
def test_settings_have_the_defaults_of_vila():
  assert settings_of({}) == Settings()
  unused = dict(s2=False, s2_scales='336,672', min_tiles=None, ps3=None)
  assert settings_of(
    unused | dict(s2_resize_output_to_scale_idx=-1)
  ) == Settings(output=-1)
  assert settings_of(
    {
      'image_aspect_ratio': 'dynamic_s2',
      'dynamic_s2': True,
      's2_scales': '448,896,1344',
      's2_resize_output_to_scale_idx': -1,
      'max_tiles': 12,
      'image_encoder': '{"_target_": "llava.model.encoders.BasicImageEncoder"}',
    }
  ) == Settings(aspect='dynamic_s2', sizes=(448, 896, 1344), output=-1)


S2 = {'s2': True, 's2_scales': '4,8', 's2_max_split_size': 4}


@pytest.mark.fast
@pytest.mark.parametrize(
  'key, changes',
  [
    ('image_aspect_ratio', {'image_aspect_ratio': 'pad'}),
    ('image_aspect_ratio', {'image_aspect_ratio': 'dynamic_s2'}),
    ('image_aspect_ratio', {**S2, 'image_aspect_ratio': 'dynamic'}),
    ('s2_scales', {**S2, 's2_scales': '4,6'}),
    ('s2_scales', {**S2, 's2_scales': None}),
    ('s2_scales', {**S2, 's2_scales': 'a,b'}),
    ('s2_scales', {**S2, 's2_scales': [0, 4]}),
    ('s2_max_split_size', {**S2, 's2_max_split_size': 8}),
    (
      's2_resize_output_to_scale_idx',
      {**S2, 's2_resize_output_to_scale_idx': 2},
    ),
    ('mm_vision_select_feature', {'mm_vision_select_feature': 'patch'}),
    ('mm_use_im_start_end', {'mm_use_im_start_end': True}),
    ('ps3', {'ps3': True}),
    ('image_encoder', {'image_encoder': {'_target_': 'TSPImageEncoder'}}),
    ('image_encoder', {'image_encoder': '{'}),
    ('chat_template', {'chat_template': 'vicuna'}),
  ],
)
def test_unsupported_settings_are_refused(key, changes):
  with pytest.raises(UserError) as error:
    settings_of(changes)
  assert error.value.key == key
