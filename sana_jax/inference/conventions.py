"""Named differences in sampling between diffusers and NVlabs' own code.

  pipe(prompts, convention=OFFICIAL)

Further differences are options of the models: `Sana.attention_eps` and
`cross_norm_eps`, and the `wiring` of ControlNets (models/controlnet.py).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Convention:
  """The defaults are diffusers'.

  Attributes:
    continuous_timesteps: DPM-Solver's timesteps are not truncated to integers.
      NVlabs' models truncate them, except Sprint and its teachers.
    prompt_mask: the unconditional half uses the mask of the prompt, as in
      NVlabs' code, and not that of the negative prompt.
    double_shift: Euler's grid is shifted twice, as diffusers and NVlabs do
      (huggingface/diffusers#13243); False does it once.
  """

  continuous_timesteps: bool = False
  prompt_mask: bool = False
  double_shift: bool = True


DIFFUSERS = Convention()
OFFICIAL = Convention(prompt_mask=True)
