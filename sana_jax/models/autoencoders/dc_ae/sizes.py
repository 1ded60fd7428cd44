"""The published autoencoders, by name: keyword arguments of `DCAE`.

From the DC-AE paper's code (dc-ai-projects/DC-Gen, efficientvit) and the
configs that diffusers converts. `in` was trained on ImageNet, `mix` on more.
"""

_WIDTHS = (128, 256, 512, 512, 1024, 1024)
_BLOCKS = ('ResBlock',) * 3 + ('EfficientViTBlock',) * 3
_SCALES = ((), (), (), (5,), (5,), (5,))

# Versions 1.0 and 1.1 differ in the decoder's weights only.
_SANA = dict(
  encoder_blocks=_BLOCKS,
  decoder_blocks=_BLOCKS,
  encoder_widths=_WIDTHS,
  decoder_widths=_WIDTHS,
  encoder_depths=(2, 2, 2, 3, 3, 3),
  decoder_depths=(3, 3, 3, 3, 3, 3),
  encoder_scales=_SCALES,
  decoder_scales=_SCALES,
  downsample='conv',
  upsample='interpolate',
  decoder_norms=('rms_norm',) * 6,
  decoder_acts=('silu',) * 6,
  scaling_factor=0.41407,
)

# A decoder of plain convolutions for the same latents.
_LITE = _SANA | dict(
  decoder_blocks=('ResBlock',) * 6,
  decoder_depths=(0, 3, 5, 4, 4, 4),
  decoder_scales=((),) * 6,
  upsample='pixel_shuffle',
  decoder_out_act='silu',
)


def _general(extra: int, latent_channels: int, scaling_factor: float):
  """The paper's own models: `extra` stages of width 2048 below f32."""
  stages = 6 + extra
  blocks = ('ResBlock',) * 3 + ('EfficientViTBlock',) * (3 + extra)
  widths = _WIDTHS + (2048,) * extra
  return dict(
    latent_channels=latent_channels,
    encoder_blocks=blocks,
    decoder_blocks=blocks,
    encoder_widths=widths,
    decoder_widths=widths,
    encoder_depths=(0, 4, 8, 2, 2, 2) + (2,) * extra,
    decoder_depths=(0, 5, 10, 2, 2, 2) + (2,) * extra,
    encoder_scales=((),) * stages,
    decoder_scales=((),) * stages,
    downsample='pixel_unshuffle',
    upsample='pixel_shuffle',
    decoder_norms=('batch_norm',) * 3 + ('rms_norm',) * (stages - 3),
    decoder_acts=('relu',) * 3 + ('silu',) * (stages - 3),
    scaling_factor=scaling_factor,
  )


SIZES = {
  'dc_ae_f32c32_sana': _SANA,
  'dc_ae_lite_f32c32_sana': _LITE,
  'dc_ae_f32c32_in': _general(0, 32, 0.3189),
  'dc_ae_f32c32_mix': _general(0, 32, 0.4552),
  'dc_ae_f64c128_in': _general(1, 128, 0.2889),
  'dc_ae_f64c128_mix': _general(1, 128, 0.4538),
  'dc_ae_f128c512_in': _general(2, 512, 0.4883),
  'dc_ae_f128c512_mix': _general(2, 512, 0.3620),
}
