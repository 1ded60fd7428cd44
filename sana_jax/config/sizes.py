"""Sizes of models: fields of `models.sana.Sana`, and of a DC-AE."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from sana_jax.models.autoencoders import dc_ae

# The published sizes (diffusers' configs).
_600M = dict(width=1152, depth=28, cross_heads=16)
_1600M = dict(width=2240, depth=20, cross_heads=20)
_NORMED = dict(qk_norm=True, cross_norm=True)
SANA_SIZES = {
  'sana_600m_512': dict(_600M, sample_size=16),
  'sana_600m_1024': dict(_600M, sample_size=32),
  'sana_1600m_512': dict(_1600M, sample_size=16),
  'sana_1600m_1024': dict(_1600M, sample_size=32),
  'sana_1600m_2k': dict(_1600M, sample_size=64, interpolation_scale=1.0),
  'sana_1600m_4k': dict(_1600M, sample_size=128, interpolation_scale=2.0),
  'sana15_1600m_1024': dict(_1600M, **_NORMED),
  'sana15_3200m_1024': dict(_1600M, **_NORMED) | dict(depth=40),
  'sana15_4800m_1024': dict(_1600M, **_NORMED) | dict(depth=60),
  'sana_sprint_600m_1024': dict(_600M, **_NORMED, guidance_embeds=True),
  'sana_sprint_1600m_1024': dict(_1600M, **_NORMED, guidance_embeds=True),
  'sana_sprint_600m_1024_teacher': dict(_600M, **_NORMED, timestep_scale=0.001),
  'sana_sprint_1600m_1024_teacher': dict(
    _1600M, **_NORMED, timestep_scale=0.001
  ),
}

# The shipped model.
SHAPES = dict(
  width=128,
  depth=6,
  cross_heads=4,
  sample_size=4,
  text_norm_scale=1.0,
  in_channels=16,
  out_channels=16,
  caption_channels=128,
)


def dc_ae_fields(
  latent_channels: int,
  widths: Sequence[int],
  depths: Sequence[int],
  attention_stages: int,
) -> ConfigDict:
  """Fields of a DC-AE like SANA's, with linear attention in the last stages."""
  plain = len(widths) - attention_stages
  blocks = ('ResBlock',) * plain + ('EfficientViTBlock',) * attention_stages
  scales = ((),) * plain + ((5,),) * attention_stages
  return ConfigDict(
    dict(
      dc_ae.SIZES['dc_ae_f32c32_sana'],
      latent_channels=latent_channels,
      encoder_blocks=blocks,
      decoder_blocks=blocks,
      encoder_scales=scales,
      decoder_scales=scales,
      encoder_widths=tuple(widths),
      decoder_widths=tuple(widths),
      encoder_depths=tuple(depths),
      decoder_depths=tuple(depths),
      decoder_norms=('rms_norm',) * len(widths),
      decoder_acts=('silu',) * len(widths),
    )
  )
