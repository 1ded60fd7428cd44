"""Adapter files of every spelling are read, and used entirely or refused."""

import json

from lora_files import (
  assert_same,
  delta,
  MODEL,
  normal,
  POINT,
  QKV,
  random,
  save,
  SHAPES,
  spelled,
)
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.weights.lora import reading
from sana_jax.weights.lora.lows import Low
from sana_jax.weights.lora.writing import METADATA

AB = '.lora_A.weight', '.lora_B.weight'
DOWN_UP = '.lora_down.weight', '.lora_up.weight'
flat = lambda key: key.replace('.', '_')
SPELLINGS = {
  'diffusers': ('transformer.{}', *AB),
  'old diffusers': ('transformer.{}', '.lora.down.weight', '.lora.up.weight'),
  'diffusers with kohya endings': ('transformer.{}', *DOWN_UP),
  'peft': ('base_model.model.{}', *AB),
  'peft with the name of an adapter': (
    'base_model.model.{}',
    '.lora_A.default.weight',
    '.lora_B.default.weight',
  ),
  'ComfyUI': ('diffusion_model.{}', *DOWN_UP),
  'no prefix': ('{}', *AB),
}


def refused(*args):
  with pytest.raises(UserError) as e:
    reading.read(*args, MODEL)
  return e.value


@pytest.mark.parametrize('spelling', SPELLINGS)
def test_a_spelling_with_dots_is_read(spelling, tmp_path):
  prefix, *endings = SPELLINGS[spelling]
  want = random()
  tensors = spelled(want, prefix.format, *endings)
  assert_same(
    reading.read(save(tmp_path / 'a.safetensors', tensors), MODEL), want
  )


@pytest.mark.parametrize('alpha', [1.0, 6.0])
def test_kohyas_underscores_and_alphas_are_read(alpha, tmp_path):
  updates = random(rank=3)
  name = lambda key: f'lora_unet_{flat(key)}'
  tensors = spelled(updates, name, *DOWN_UP)
  tensors |= {f'{name(key)}.alpha': np.float32(alpha) for key in updates}
  got = reading.read(save(tmp_path / 'a.safetensors', tensors), MODEL)
  assert_same(got, {k: x._replace(scale=alpha / 3) for k, x in updates.items()})


@pytest.mark.parametrize('prefix', ['', 'diffusion_model.', 'lora_unet_'])
def test_official_fused_projections_are_split(prefix, tmp_path):
  width, down = 24, normal(2, 24)
  ups = {n: normal(n * width, 2) for n in (3, 2)}
  name = flat if prefix.endswith('_') else str
  tensors = {}
  for key, n in (
    ('blocks.1.attn.qkv', 3),
    ('blocks.0.cross_attn.kv_linear', 2),
  ):
    tensors[f'{prefix}{name(key)}.lora_down.weight'] = down
    tensors[f'{prefix}{name(key)}.lora_up.weight'] = ups[n]
  point = random([POINT])[POINT]
  key = prefix + name('blocks.0.mlp.point_conv.conv')
  tensors |= {f'{key}{DOWN_UP[0]}': point.down, f'{key}{DOWN_UP[1]}': point.up}
  kv = [f'transformer_blocks.0.attn2.to_{x}' for x in 'kv']
  want = {POINT: point} | {
    key: Low(down, up, 1.0)
    for keys, n in ((QKV, 3), (kv, 2))
    for key, up in zip(keys, np.split(ups[n], n))
  }
  assert_same(
    reading.read(save(tmp_path / 'a.safetensors', tensors), MODEL), want
  )


def header(**fields):
  text = json.dumps({f'transformer.{k}': x for k, x in fields.items()})
  return {'format': 'pt', METADATA: text}


@pytest.mark.parametrize(
  'fields, scale',
  [
    ({'r': 2, 'lora_alpha': 5}, 2.5),
    ({'r': 2, 'lora_alpha': 5, 'use_rslora': True}, 5 / 2**0.5),
    ({'r': 4, 'rank_pattern': {'to_q|proj_out': 2}, 'lora_alpha': 3}, 1.5),
    ({'r': 2, 'lora_alpha': 5, 'alpha_pattern': {'proj_out': 1}}, 0.5),
  ],
)
def test_scales_are_those_of_the_header(fields, scale, tmp_path):
  updates = random(['proj_out'])
  tensors = spelled(updates, 'transformer.{}'.format, *AB)
  path = save(tmp_path / 'a.safetensors', tensors, header(**fields))
  assert reading.read(path, MODEL)['proj_out'].scale == pytest.approx(scale)


def test_pefts_folder_has_its_config_in_another_file(tmp_path):
  updates = random(['proj_out'])
  tensors = spelled(updates, 'base_model.model.{}'.format, *AB)
  save(tmp_path / 'adapter_model.safetensors', tensors)
  config = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 8}
  (tmp_path / 'adapter_config.json').write_text(json.dumps(config))
  assert reading.read(tmp_path, MODEL)['proj_out'].scale == 4


@pytest.mark.parametrize(
  'ending, shape',
  [
    ('.lora_magnitude_vector', (-1,)),
    ('.lora_magnitude_vector.weight', (-1,)),
    ('.dora_scale', (-1, 1)),
  ],
)
def test_magnitudes_of_dora_are_read(ending, shape, tmp_path):
  updates = random(QKV, dora=True)
  tensors = spelled(updates, 'transformer.{}'.format, *AB)
  for key, low in updates.items():
    tensors[f'transformer.{key}{ending}'] = low.magnitude.reshape(shape)
  got = reading.read(save(tmp_path / 'a.safetensors', tensors), MODEL)
  assert_same(got, updates)


def test_a_magnitude_of_inputs_is_refused(tmp_path):
  updates = random(QKV[:1])
  tensors = spelled(updates, 'transformer.{}'.format, *AB)
  tensors[f'transformer.{QKV[0]}.dora_scale'] = normal(1, 24)
  assert refused(save(tmp_path / 'a.safetensors', tensors)).value == QKV[0]


@pytest.mark.parametrize('split', [(), ('w1',), ('w2',), ('w1', 'w2')])
def test_lokr_is_a_kronecker_product(split, tmp_path):
  w = {'w1': normal(4, 6), 'w2': normal(6, 4)}
  tensors, rank, key = {}, 3, QKV[0]
  for name in w:
    if name in split:
      a, b = normal(len(w[name]), rank), normal(rank, w[name].shape[1])
      tensors |= {f'{key}.lokr_{name}_a': a, f'{key}.lokr_{name}_b': b}
      w[name] = a @ b
    else:
      tensors[f'{key}.lokr_{name}'] = w[name]
  tensors[f'{key}.alpha'] = np.float32(6)
  got = reading.read(save(tmp_path / 'a.safetensors', tensors), MODEL)
  scale = 2.0 if split else 1.0  # alpha / rank, where there is a rank.
  np.testing.assert_allclose(
    delta(got[key]), scale * np.kron(w['w1'], w['w2']), rtol=1e-4, atol=1e-4
  )


def test_the_time_embedding_of_a_teacher_fits_its_sprint(tmp_path):
  layer = 'timestep_embedder.linear_1'
  low = random([f'time_embed.emb.{layer}'])[f'time_embed.emb.{layer}']
  path = save(
    tmp_path / 'a.safetensors',
    spelled({layer: low}, 'transformer.time_embed.emb.{}'.format, *AB),
  )
  sprint = MODEL.clone(guidance_embeds=True)
  assert_same(reading.read(path, sprint), {f'time_embed.{layer}': low})


@pytest.mark.parametrize(
  'extra',
  [
    'transformer.transformer_blocks.2.attn1.to_q.lora_A.weight',
    'text_encoder.layers.0.self_attn.q_proj.lora_A.weight',
    'transformer.transformer_blocks.0.ff.conv_depth.lora_A.weight',
    'transformer.proj_out.lora_B.bias',
    'transformer.scale_shift_table',
    'lora_te_text_model_encoder.lora_down.weight',
  ],
)
def test_a_key_that_cannot_be_used_is_refused_by_name(extra, tmp_path):
  tensors = spelled(random(), 'transformer.{}'.format, *AB)
  path = save(tmp_path / 'a.safetensors', tensors | {extra: normal(2, 24)})
  e = refused(path)
  assert e.value == [extra] and 'diffusers' in str(e) and extra in str(e)


@pytest.mark.parametrize('kept', AB)
def test_half_a_pair_is_refused(kept, tmp_path):
  tensors = spelled(random(['proj_out']), 'transformer.{}'.format, *AB)
  only = {k: x for k, x in tensors.items() if k.endswith(kept)}
  assert refused(save(tmp_path / 'a.safetensors', only)).value == 'proj_out'


def test_an_adapter_of_another_size_is_refused_with_both_shapes(tmp_path):
  wrong = {QKV[0]: Low(normal(2, 32), normal(32, 2), 1.0)}
  tensors = spelled(wrong, 'transformer.{}'.format, *AB)
  e = refused(save(tmp_path / 'a.safetensors', tensors))
  assert e.value == QKV[0] and e.allowed == ((2, 24), (24, 2))
  assert '(2, 32)' in str(e) and '(32, 2)' in str(e)


def test_ranks_that_differ_are_refused(tmp_path):
  key = QKV[0]
  pair = {key: Low(normal(2, 24), normal(24, 3), 1.0)}
  tensors = spelled(pair, 'transformer.{}'.format, *AB)
  assert refused(save(tmp_path / 'a.safetensors', tensors)).value == key
  fits = spelled(random([key]), 'transformer.{}'.format, *AB)
  e = refused(save(tmp_path / 'b.safetensors', fits, header(r=8, lora_alpha=8)))
  assert (e.value, e.allowed) == (2, (8,))


@pytest.mark.parametrize(
  'metadata',
  ['{', '[]', '{"transformer.r": "two"}', '{"transformer.rank_pattern": 3}'],
)
def test_an_invalid_header_is_refused(metadata, tmp_path):
  tensors = spelled(random(['proj_out']), 'transformer.{}'.format, *AB)
  path = tmp_path / 'a.safetensors'
  refused(save(path, tensors, {METADATA: metadata}))


def test_the_file_of_a_folder_is_found_or_must_be_named(tmp_path):
  assert refused(tmp_path / 'missing').key == 'lora'
  assert refused(tmp_path).allowed == []
  tensors = spelled(random(['proj_out']), 'transformer.{}'.format, *AB)
  save(tmp_path / 'style.safetensors', tensors)
  assert set(reading.read(tmp_path, MODEL)) == {'proj_out'}
  save(tmp_path / 'other.safetensors', tensors)
  assert len(refused(tmp_path).allowed) == 2
  save(tmp_path / 'pytorch_lora_weights.safetensors', tensors)
  assert set(reading.read(tmp_path, MODEL)) == {'proj_out'}


def test_shapes_are_those_of_diffusers():
  assert SHAPES[POINT] == (24, 60, 1, 1)
  assert SHAPES['patch_embed.proj'] == (24, 3, 1, 1)
  assert SHAPES['proj_out'] == (3, 24)
