"""The zoo's tensors against those that diffusers and transformers build."""

import pytest

from sana_jax.weights import folder, zoo

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')
transformers = pytest.importorskip('transformers')

# Tensors in a file, counted in diffusers.
TENSORS = {
  'sana_600m_1024': 548,
  'sana_1600m_4k_bf16': 396,
  'sana15_1600m_1024': 476,
  'sana15_4800m_1024': 1396,
  'sana_sprint_600m_1024': 664,
  'sana_sprint_1600m_1024': 480,
  'sana_600m_1024_controlnet_hed': 162,
  'sana_1600m_1024_bf16_controlnet_hed': 162,
  'dc_ae_f32c32_sana_1.1': 375,
  'dc_ae_lite_f32c32_sana_1.1': 293,
  'dc_ae_f32c32_in_1.0': 362,
  'dc_ae_f64c128_in_1.0': 418,
  'dc_ae_f128c512_mix_1.0': 474,
  'gemma2_2b_it': 288,
}


def build(config):
  """The reference's model on no device."""
  with torch.device('meta'):
    if config.get('model_type') == 'gemma2':
      return transformers.Gemma2Model(transformers.Gemma2Config(**config))
    return getattr(diffusers, config['_class_name']).from_config(config)


@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_keys_and_shapes_are_those_of_the_reference(entry):
  configs = entry.configs()
  if entry.kind in ('pipeline', 'sprint'):  # The others have their own entries.
    configs = {'transformer': configs['transformer']}
  elif entry.kind == 'controlnet':
    configs = {'controlnet': configs['controlnet']}
  for part, config in configs.items():
    model = build(config)
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    got = folder.file_shapes(part, config)
    assert got == want
    assert len(got) == TENSORS.get(entry.name, len(got))
    assert sum(p.numel() for p in model.parameters()) == entry.parameters


@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_diffusers_takes_every_key_of_a_config_as_it_is(entry):
  for part, config in entry.configs().items():
    if part == 'text_encoder':
      continue
    taken = build(config).config
    for key, value in config.items():
      if key[0] != '_':
        assert taken[key] == value, key
