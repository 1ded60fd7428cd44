"""Which parameters of DC-AE train in which of its phases, as patterns of paths.

The paper (arXiv:2410.10733, section 3.3) names "the encoder's head and the
decoder's input layers" and "the decoder's head layers", and its code is not
public. Here these are the layer at the latents, or at the image, and the stage
beside it.
"""


def middle(stages: int) -> str:
  """For another resolution: what lies around the latents."""
  last = stages - 1
  return f'encoder/(stage_{last}|conv_out)/.* decoder/(conv_in|stage_{last})/.*'


def head(finest: int = 0) -> str:
  """For detail: what makes pixels, and the discriminator that judges them.

  Args:
    finest: the first stage that is not empty.
  """
  return f'decoder/(stage_{finest}|norm_out|conv_out)/.* discriminator/.*'
