"""All published image checkpoints of SANA, and the models they consist of.

Fields are the named sizes of `config`, `models.autoencoders.dc_ae` and
`models.gemma2`, as in diffusers' converter and NVIDIA's configs; loading uses a
folder's own config.json. Licences are those of the model cards that could be
read. Notes on quality are users' reports in the named issues.
"""

from sana_jax.config import SANA_SIZES
from sana_jax.models import gemma2
from sana_jax.models.autoencoders import dc_ae
from sana_jax.weights.zoo.entry import Entry

_HUB = 'Efficient-Large-Model/'
_CARD = 'See the model card.'
_NVIDIA = (
  'NVIDIA License ("NSCL v2-custom"), LICENSE.txt beside the weights; '
  'for the text encoder the Gemma Terms of Use.'
)
_GEMMA = 'Gemma Terms of Use, ai.google.dev/gemma/terms.'
# In float16 the autoencoder can overflow, so it is never recommended there.
_BF16 = dict(transformer='bfloat16', vae='bfloat16', text_encoder='bfloat16')
_FP16 = _BF16 | dict(transformer='float16')
_VAE = dc_ae.SIZES['dc_ae_f32c32_sana']
_TEXT = gemma2.SIZES['gemma2_2b']
_600M, _1600M, _1600M_NORMED = 591_747_872, 1_604_462_752, 1_604_641_952
_REPORTED_BAD = 'Users report bad pictures (huggingface/diffusers#10873).'


def _sana(
  name,
  hub,
  parameters,
  source,
  *,
  size=None,
  dtypes=_BF16,
  licence=_NVIDIA,
  **more,
) -> Entry:
  """Entry of a complete text-to-image model; `hub` is its name on the hub."""
  values = dict(
    kind='pipeline',
    hub_id=f'{_HUB}{hub}_diffusers',
    sampler='dpm++2m',
    flow_shift=3.0,
    steps=20,
    guidance=4.5,
  )
  return Entry(
    name=name,
    official_hub_id=_HUB + hub,
    parameters=parameters,
    source=source,
    dtypes=dtypes,
    licence=licence,
    **values | more,
    fields={
      'transformer': SANA_SIZES[size or name],
      'vae': _VAE,
      'text_encoder': _TEXT,
    },
  )


_SANA = (
  _sana(
    'sana_600m_512', 'Sana_600M_512px', _600M, 'SN', dtypes=_FP16, licence=_CARD
  ),
  _sana(
    'sana_600m_1024',
    'Sana_600M_1024px',
    _600M,
    'SP',
    dtypes=_FP16,
    official_flow_shift=4.0,
  ),
  _sana(
    'sana_1600m_512',
    'Sana_1600M_512px',
    _1600M,
    'SN',
    dtypes=_FP16,
    licence=_CARD,
  ),
  _sana(
    'sana_1600m_512_multiling',
    'Sana_1600M_512px_MultiLing',
    _1600M,
    'SN',
    size='sana_1600m_512',
    dtypes=_FP16,
    licence=_CARD,
    note=_REPORTED_BAD,
  ),
  _sana(
    'sana_1600m_1024',
    'Sana_1600M_1024px',
    _1600M,
    'S',
    dtypes=_FP16,
    note='Prefer sana_1600m_1024_bf16: users report that this one fails '
    'in bfloat16, and artifacts (huggingface/diffusers#9982, #10241).',
  ),
  _sana(
    'sana_1600m_1024_multiling',
    'Sana_1600M_1024px_MultiLing',
    _1600M,
    'S',
    size='sana_1600m_1024',
    dtypes=_FP16,
    licence=_CARD,
    note=_REPORTED_BAD,
  ),
  _sana(
    'sana_1600m_1024_bf16',
    'Sana_1600M_1024px_BF16',
    _1600M,
    'S',
    size='sana_1600m_1024',
  ),
  _sana(
    'sana_1600m_2k_bf16',
    'Sana_1600M_2Kpx_BF16',
    _1600M,
    'S',
    size='sana_1600m_2k',
    note='Has a position embedding.',
  ),
  _sana(
    'sana_1600m_4k_bf16',
    'Sana_1600M_4Kpx_BF16',
    _1600M,
    'SN',
    size='sana_1600m_4k',
    flow_shift=6.0,
    note='Has a position embedding. Decoding 4096 px at once needs much '
    'memory: decode in tiles (huggingface/diffusers#10510).',
  ),
  _sana('sana15_1600m_1024', 'SANA1.5_1.6B_1024px', _1600M_NORMED, 'SP'),
  _sana('sana15_4800m_1024', 'SANA1.5_4.8B_1024px', 4_721_825_952, 'S'),
)


def _sprint(name, hub, parameters, source) -> Entry:
  return _sana(
    name,
    hub,
    parameters,
    source,
    kind='sprint',
    sampler='scm',
    flow_shift=None,
    steps=2,
    note='For 1 to 4 steps; the guidance scale is an input of the model, and '
    'there is no negative prompt.',
  )


def _teacher(name, hub, hub_id, parameters) -> Entry:
  return _sana(
    name,
    hub,
    parameters,
    'SR',
    hub_id=hub_id,
    note='What Sprint is distilled from, not a few-step model. Its times lie '
    'in [0, 1]: timestep_scale is 0.001 (huggingface/diffusers#11150).',
  )


_SPRINT = (
  _sprint('sana_sprint_600m_1024', 'Sana_Sprint_0.6B_1024px', 593_501_216, 'S'),
  _sprint(
    'sana_sprint_1600m_1024', 'Sana_Sprint_1.6B_1024px', 1_610_237_472, 'SP'
  ),
  _teacher(
    'sana_sprint_600m_1024_teacher',
    'Sana_Sprint_0.6B_1024px_teacher',
    f'{_HUB}Sana_Sprint_0.6B_1024px_teacher_diffusers',
    591_876_896,
  ),
  _teacher(
    'sana_sprint_1600m_1024_teacher',
    'Sana_Sprint_1.6B_1024px_teacher',
    f'{_HUB}SANA_Sprint_1.6B_1024px_teacher_diffusers',
    _1600M_NORMED,
  ),
)


def _controlnet(name, hub, hub_id, base, parameters, dtype, **more) -> Entry:
  """Entry of a ControlNet, which has 7 blocks, with its base model."""
  fields = SANA_SIZES[base]
  return Entry(
    name=name,
    kind='controlnet',
    hub_id=hub_id,
    official_hub_id=_HUB + hub,
    fields={
      'transformer': fields,
      'controlnet': fields | dict(depth=7),
      'vae': _VAE,
      'text_encoder': _TEXT,
    },
    dtypes=_BF16 | dict(transformer=dtype, controlnet=dtype),
    parameters=parameters,
    licence=_CARD,
    sampler='dpm++2m',
    flow_shift=3.0,
    steps=20,
    guidance=4.5,
    **more,
  )


_SCRIBBLES = (
  "Reads HED scribbles. NVIDIA's code wires it to the transformer "
  "in another way than diffusers': see models/controlnet.py."
)
_CONTROLNETS = (
  _controlnet(
    'sana_600m_1024_controlnet_hed',
    'Sana_600M_1024px_ControlNet_HED',
    'ishan24/Sana_600M_1024px_ControlNetPlus_diffusers',
    'sana_600m_1024',
    168_765_696,
    'float16',
    source='SNP',
    official_flow_shift=4.0,
    note=f"{_SCRIBBLES} The diffusers folder is a third party's, the one that "
    "diffusers' documentation names.",
  ),
  _controlnet(
    'sana_1600m_1024_bf16_controlnet_hed',
    'Sana_1600M_1024px_BF16_ControlNet_HED',
    None,
    'sana_1600m_1024',
    631_576_960,
    'bfloat16',
    source='SN',
    note=_SCRIBBLES,
  ),
)


def _dc_ae(
  name, size, hub, parameters, source, licence=_CARD, note='', official=True
) -> Entry:
  return Entry(
    name=name,
    kind='autoencoder',
    hub_id=f'mit-han-lab/{hub}-diffusers',
    official_hub_id=f'mit-han-lab/{hub}' if official else None,
    fields={'vae': dc_ae.SIZES[size]},
    parameters=parameters,
    dtypes=dict(vae='bfloat16'),
    licence=licence,
    source=source,
    note=note,
  )


_F32, _F64, _F128 = 323_356_460, 676_896_140, 1_120_682_252
_APACHE = 'Apache 2.0, by the card of dc-ae-f32c32-in-1.0.'
_DC_AE = (
  _dc_ae(
    'dc_ae_f32c32_sana_1.0',
    'dc_ae_f32c32_sana',
    'dc-ae-f32c32-sana-1.0',
    312_250_275,
    'SP',
  ),
  _dc_ae(
    'dc_ae_f32c32_sana_1.1',
    'dc_ae_f32c32_sana',
    'dc-ae-f32c32-sana-1.1',
    312_250_275,
    'SP',
    'MIT, by its card.',
    'As 1.0, with a better decoder for the same latents.',
  ),
  _dc_ae(
    'dc_ae_lite_f32c32_sana_1.1',
    'dc_ae_lite_f32c32_sana',
    'dc-ae-lite-f32c32-sana-1.1',
    421_181_228,
    'R',
    note='A decoder 1.8 times as fast for the same latents, by its '
    "authors. The config is a third party's copy.",
    official=False,
  ),
  _dc_ae(
    'dc_ae_f32c32_in_1.0',
    'dc_ae_f32c32_in',
    'dc-ae-f32c32-in-1.0',
    _F32,
    'S',
    _APACHE,
  ),
  _dc_ae(
    'dc_ae_f32c32_mix_1.0',
    'dc_ae_f32c32_mix',
    'dc-ae-f32c32-mix-1.0',
    _F32,
    'S',
  ),
  _dc_ae(
    'dc_ae_f64c128_in_1.0',
    'dc_ae_f64c128_in',
    'dc-ae-f64c128-in-1.0',
    _F64,
    'S',
  ),
  _dc_ae(
    'dc_ae_f64c128_mix_1.0',
    'dc_ae_f64c128_mix',
    'dc-ae-f64c128-mix-1.0',
    _F64,
    'S',
  ),
  _dc_ae(
    'dc_ae_f128c512_in_1.0',
    'dc_ae_f128c512_in',
    'dc-ae-f128c512-in-1.0',
    _F128,
    'S',
  ),
  _dc_ae(
    'dc_ae_f128c512_mix_1.0',
    'dc_ae_f128c512_mix',
    'dc-ae-f128c512-mix-1.0',
    _F128,
    'S',
  ),
)
_GEMMA2 = Entry(
  name='gemma2_2b_it',
  kind='text_encoder',
  hub_id=f'{_HUB}gemma-2-2b-it',
  official_hub_id=None,
  fields={'text_encoder': _TEXT},
  parameters=2_614_341_888,
  dtypes=dict(text_encoder='bfloat16'),
  licence=_GEMMA,
  source='SP',
  note='The text encoder of every SANA.',
)

ENTRIES = (*_SANA, *_SPRINT, *_CONTROLNETS, *_DC_AE, _GEMMA2)
