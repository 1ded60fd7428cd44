"""The zoo: names, exact sizes, and metadata."""

import jax
import pytest

from sana_jax.errors import UserError
from sana_jax.weights import folder, kinds, zoo

# Of diffusers' and transformers' models, counted there (with the statistics of
# batch norms). The Sprint teachers have no guidance embedding.
PARAMETERS = {
  'sana_600m_512': 591_747_872,
  'sana_600m_1024': 591_747_872,
  'sana_1600m_512': 1_604_462_752,
  'sana_1600m_512_multiling': 1_604_462_752,
  'sana_1600m_1024': 1_604_462_752,
  'sana_1600m_1024_multiling': 1_604_462_752,
  'sana_1600m_1024_bf16': 1_604_462_752,
  'sana_1600m_2k_bf16': 1_604_462_752,
  'sana_1600m_4k_bf16': 1_604_462_752,
  'sana15_1600m_1024': 1_604_641_952,
  'sana15_4800m_1024': 4_721_825_952,
  'sana_sprint_600m_1024': 593_501_216,
  'sana_sprint_1600m_1024': 1_610_237_472,
  'sana_sprint_600m_1024_teacher': 593_501_216 - 1_624_320,
  'sana_sprint_1600m_1024_teacher': 1_604_641_952,
  'sana_600m_1024_controlnet_hed': 168_765_696,
  'sana_1600m_1024_bf16_controlnet_hed': 631_576_960,
  'dc_ae_f32c32_sana_1.0': 312_250_275,
  'dc_ae_f32c32_sana_1.1': 312_250_275,
  'dc_ae_lite_f32c32_sana_1.1': 421_181_228,
  'dc_ae_f32c32_in_1.0': 323_356_460,
  'dc_ae_f32c32_mix_1.0': 323_356_460,
  'dc_ae_f64c128_in_1.0': 676_896_140,
  'dc_ae_f64c128_mix_1.0': 676_896_140,
  'dc_ae_f128c512_in_1.0': 1_120_682_252,
  'dc_ae_f128c512_mix_1.0': 1_120_682_252,
  'gemma2_2b_it': 2_614_341_888,
}


def test_every_published_checkpoint_has_one_entry():
  names = [entry.name for entry in zoo.ENTRIES]
  assert sorted(names) == sorted(PARAMETERS)
  where = [e.hub_id or e.official_hub_id for e in zoo.ENTRIES]
  assert len(set(where)) == len(where)


@pytest.mark.long
@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_the_number_of_parameters_is_that_of_the_model(entry):
  shapes = kinds.PARTS[entry.part].shapes(entry.module(entry.part))
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  assert entry.parameters == count == PARAMETERS[entry.name]


@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_a_config_gives_the_same_model_when_it_is_read(entry):
  for part, config in entry.configs().items():
    again = kinds.PARTS[part].module(config, 'float32')
    want = folder.module_fields(entry.module(part, 'float32'))
    got = folder.module_fields(again)
    if part == 'text_encoder':  # Empty stands for the alternation.
      want['layer_types'] = ('sliding', 'full') * 13
    assert got == want


@pytest.mark.parametrize('entry', zoo.ENTRIES, ids=lambda e: e.name)
def test_every_entry_has_complete_metadata(entry):
  assert entry.dtypes.keys() == entry.fields.keys()
  assert set(entry.source) <= set(zoo.SOURCES)
  assert entry.source and entry.licence.endswith('.')
  sampled = 'transformer' in entry.fields
  assert (entry.sampler is not None) == sampled
  assert (entry.size_px is not None) == sampled
  # Published float16 and bfloat16 weights are distinguished by their names.
  if entry.hub_id and 'BF16' in entry.hub_id:
    assert entry.name.endswith('_bf16')
    assert entry.dtypes['transformer'] == 'bfloat16'


@pytest.mark.parametrize(
  'name, px, shift, official, steps',
  [
    ('sana_600m_512', 512, 3.0, None, 20),
    ('sana_600m_1024', 1024, 3.0, 4.0, 20),
    ('sana_1600m_2k_bf16', 2048, 3.0, None, 20),
    ('sana_1600m_4k_bf16', 4096, 6.0, None, 20),
    ('sana_sprint_1600m_1024', 1024, None, None, 2),
  ],
)
def test_sizes_and_schedulers_are_the_published_ones(
  name, px, shift, official, steps
):
  entry = zoo.get(name)
  assert (
    entry.size_px,
    entry.flow_shift,
    entry.official_flow_shift,
    entry.steps,
  ) == (px, shift, official, steps)


def test_the_hub_id_of_a_name():
  assert zoo.hub_id('sana_1600m_1024_bf16') == (
    'Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers'
  )
  assert zoo.hub_id('somebody/else') is None
  with pytest.raises(UserError) as error:
    zoo.hub_id('sana_1600m_1024_bf16_controlnet_hed')
  assert error.value.key == 'model'
  assert error.value.value == 'sana_1600m_1024_bf16_controlnet_hed'
  assert 'Sana_1600M_1024px_BF16_ControlNet_HED' in str(error.value)


def test_the_error_for_an_unknown_name_suggests_near_ones():
  with pytest.raises(UserError) as error:
    zoo.get('Sana_600M')
  assert (error.value.key, error.value.value) == ('model', 'Sana_600M')
  assert 'sana_600m' in str(error.value)
  with pytest.raises(UserError) as error:
    zoo.get('flux')
  assert (error.value.key, error.value.value) == ('model', 'flux')
