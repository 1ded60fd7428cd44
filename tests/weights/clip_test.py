"""CLIP's files: sizes of configs and shapes, names of tensors, refusals."""

import json
import zipfile

import clip_files
import jax
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import clip as weights
from sana_jax.weights import clip_rules, pth, table
from sana_jax.weights.tensors import as_stored

pytestmark = pytest.mark.fast
# The config.json of openai/clip-vit-large-patch14, without unused keys, and
# that of an OpenCLIP H/14 in transformers' layout.
L14 = {
  'model_type': 'clip',
  'projection_dim': 768,
  'text_config': {
    'hidden_size': 768,
    'intermediate_size': 3072,
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'eos_token_id': 2,
  },
  'vision_config': {
    'hidden_size': 1024,
    'intermediate_size': 4096,
    'num_attention_heads': 16,
    'num_hidden_layers': 24,
    'patch_size': 14,
  },
}
H14 = {
  'model_type': 'clip',
  'projection_dim': 1024,
  'text_config': {
    'hidden_size': 1024,
    'intermediate_size': 4096,
    'num_attention_heads': 16,
    'num_hidden_layers': 24,
    'hidden_act': 'gelu',
  },
  'vision_config': {
    'hidden_size': 1280,
    'intermediate_size': 5120,
    'num_attention_heads': 16,
    'num_hidden_layers': 32,
    'patch_size': 14,
    'hidden_act': 'gelu',
  },
}


def blank(config):
  """Arrays of a config without memory."""
  return jax.tree.map(
    lambda s: np.broadcast_to(np.float32(0), s.shape), clip_files.shapes(config)
  )


@pytest.mark.parametrize(
  'config, parameters, tensors',
  [(L14, 427_616_513, 590), (H14, 986_109_441, 910)],
  ids=['L/14', 'H/14'],
)
def test_the_published_sizes_have_their_parameters(config, parameters, tensors):
  tree = blank(config)
  assert sum(x.size for x in jax.tree.leaves(tree)) == parameters
  saved = table.save(clip_rules.RULES, tree)
  assert len(saved) == tensors
  assert saved['visual_projection.weight'].shape == (
    config['projection_dim'],
    config['vision_config']['hidden_size'],
  )


def test_the_shapes_of_openais_names_give_the_published_config():
  saved = table.save(clip_rules.OPENAI_RULES, blank(L14))
  found = weights.openai_config(as_stored(saved))
  assert weights.fields_from_transformers(
    found
  ) == weights.fields_from_transformers(L14)


def test_older_configs_have_the_sizes_in_dicts():
  text = {'text_config': {'hidden_size': 5}, 'text_config_dict': {}}
  sizes = L14['text_config']
  other = L14 | text | {'text_config_dict': sizes}
  assert weights.fields_from_transformers(
    other
  ) == weights.fields_from_transformers(L14)


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def openai(arrays):
  """Arrays by OpenAI's names, with fused projections."""
  tree = table.load(
    clip_rules.RULES, arrays, clip_files.shapes(clip_files.CONFIG)
  )
  out = table.save(clip_rules.OPENAI_RULES, tree)
  for name in [x for x in out if 'in_proj_query' in x]:
    parts = [name.replace('query', x) for x in ('query', 'key', 'value')]
    fused = name.replace('in_proj_query.', 'in_proj_')
    out[fused] = np.concatenate([out.pop(part) for part in parts])
  return out


@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_openais_files_give_the_same_parameters(suffix, tmp_path):
  arrays = clip_files.tensors()
  folder = clip_files.write(tmp_path / 'one')
  _, want = weights.load(folder)
  other = tmp_path / 'two'
  other.mkdir()
  (other / 'config.json').write_text(json.dumps(clip_files.CONFIG))
  path = other / f'ViT-L-14.{suffix}'
  named = openai(arrays)
  assert named['visual.transformer.resblocks.0.attn.in_proj_weight'].shape == (
    96,
    32,
  )
  named['input_resolution'] = np.int64(224)
  if suffix == 'pt':
    pth.write(path, as_stored(named))
  else:
    clip_files.write_weights(path, named)
  same(weights.load(other)[1], want)


def test_the_positions_of_older_files_are_ignored(tmp_path):
  folder = clip_files.write(tmp_path)
  _, want = weights.load(folder)
  name = 'text_model.embeddings.position_ids'
  arrays = clip_files.tensors() | {name: np.arange(20)[None]}
  clip_files.write_weights(folder / 'model.safetensors', arrays)
  same(weights.load(folder)[1], want)


@pytest.mark.parametrize(
  'change',
  [
    {'visual_projection.weight': None},
    {'logit_scale': np.zeros(1, np.float32)},
    {'text_projection.weight': np.zeros((24, 17), np.float32)},
    {'surplus': np.zeros(3, np.float32)},
    {'vision_model.encoder.layers.2.layer_norm1.bias': np.zeros(32)},
    {'logit_scale': np.int32(3)},
  ],
)
def test_weights_that_do_not_fit_are_listed(change, tmp_path):
  folder = clip_files.write(tmp_path)
  arrays = clip_files.tensors() | change
  clip_files.write_weights(
    folder / 'model.safetensors',
    {k: x for k, x in arrays.items() if x is not None},
  )
  with pytest.raises(table.WeightError) as error:
    weights.load(folder)
  assert next(iter(change)) in str(error.value) or 'vision_projection' in str(
    error.value
  )


def changed(tower, **values):
  return {**clip_files.CONFIG, tower: clip_files.CONFIG[tower] | values}


@pytest.mark.parametrize(
  'key, config',
  [
    ('model_type', clip_files.CONFIG | {'model_type': 'siglip'}),
    ('model_type', {}),
    ('projection_dim', clip_files.CONFIG | {'projection_dim': 2**40}),
    ('vision_config', clip_files.CONFIG | {'vision_config': [1]}),
    ('hidden_size', changed('vision_config', hidden_size=2**40)),
    ('hidden_size', changed('text_config', hidden_size=2.0)),
    ('num_hidden_layers', changed('text_config', num_hidden_layers=10**9)),
    ('num_attention_heads', changed('text_config', num_attention_heads=3)),
    ('hidden_act', changed('text_config', hidden_act='relu')),
    ('vocab_size', changed('text_config', vocab_size=2**60)),
    ('image_size', changed('vision_config', image_size=10**6)),
    ('patch_size', changed('vision_config', image_size=2048, patch_size=1)),
    ('patch_size', changed('vision_config', patch_size=17)),
    ('num_channels', changed('vision_config', num_channels=1)),
    ('eos_token_id', changed('text_config', eos_token_id=[1, 2])),
    ('layer_norm_eps', changed('text_config', layer_norm_eps=float('nan'))),
  ],
)
def test_configs_of_other_models_are_one_error(key, config, tmp_path):
  """Before anything of such a size is made."""
  folder = clip_files.write(tmp_path)
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError) as error:
    weights.load(folder)
  assert error.value.key == key and '\n' not in str(error.value)


def remove(*names):
  return lambda folder: [(folder / name).unlink() for name in names]


def truncate(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-9])


def torchscript(folder):
  (folder / 'model.safetensors').unlink()
  with zipfile.ZipFile(folder / 'ViT-L-14.pt', 'w') as archive:
    for name in 'data.pkl', 'constants.pkl', 'code/__torch__.py':
      archive.writestr(f'x/{name}', b'x', zipfile.ZIP_DEFLATED)


def narrow(folder):
  """OpenAI's names without a config, of a width that OpenAI has not."""
  remove('config.json')(folder)
  named = openai(clip_files.tensors())
  clip_files.write_weights(folder / 'model.safetensors', named)


def resnet(folder):
  remove('config.json')(folder)
  names = 'visual.conv1.weight', 'visual.layer1.0.conv1.weight'
  arrays = {name: np.zeros((3, 3, 3, 3), np.float32) for name in names}
  clip_files.write_weights(folder / 'model.safetensors', arrays)


@pytest.mark.parametrize(
  'damage',
  [
    remove('config.json'),
    remove('model.safetensors'),
    truncate,
    torchscript,
    narrow,
    resnet,
    lambda folder: (folder / 'config.json').write_text('{'),
    lambda folder: (
      remove('model.safetensors')(folder),
      (folder / 'a.pt').write_bytes(b'x'),
    ),
    lambda folder: (
      remove('model.safetensors')(folder),
      (folder / 'a.pt').touch(),
      (folder / 'b.pt').touch(),
    ),
  ],
)
def test_damaged_folders_are_one_error(damage, tmp_path):
  folder = clip_files.write(tmp_path)
  damage(folder)
  with pytest.raises(UserError) as error:
    weights.load(folder)
  assert '\n' not in str(error.value)
