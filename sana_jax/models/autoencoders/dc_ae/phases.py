"""Trainable parameters of DC-AE's training phases, as patterns of paths.

The paper (arXiv:2410.10733, section 3.3) names "the encoder's head and the
decoder's input layers" and "the decoder's head layers", and its code is not
public. Here these are the layer at the latents, or at the image, and the
adjacent stage.
"""


def middle(stages: int) -> str:
  """Pattern for another resolution: the layers around the latents."""
  last = stages - 1
  return f'encoder/(stage_{last}|conv_out)/.* decoder/(conv_in|stage_{last})/.*'


def head(finest: int = 0) -> str:
  """Pattern for refining detail: the decoder's head and the discriminator.

  Args:
    finest: index of the first non-empty stage.
  """
  return f'decoder/(stage_{finest}|norm_out|conv_out)/.* discriminator/.*'
