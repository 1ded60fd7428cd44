"""Where diffusers and NVlabs' own code sample differently, by name.

  pipe(prompts, convention=OFFICIAL)

The models have options of their own for this: `Sana.attention_eps` and
`cross_norm_eps`, and the wiring of ControlNets (models/controlnet.py).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Convention:
  """The defaults are diffusers'.

  Attributes:
    continuous_timesteps: DPM-Solver's timesteps are not truncated to whole
      numbers. NVlabs' models truncate theirs, but for Sprint and its teachers.
    prompt_mask: the unconditional half is masked as its prompt is, as NVlabs
      does, and not as the negative prompt.
    double_shift: Euler's grid is shifted twice, as diffusers and NVlabs do
      (huggingface/diffusers#13243); False does it once.
  """

  continuous_timesteps: bool = False
  prompt_mask: bool = False
  double_shift: bool = True


DIFFUSERS = Convention()
OFFICIAL = Convention(prompt_mask=True)
