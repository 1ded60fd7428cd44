"""Networks and settings of a distillation, for its losses."""

import dataclasses

import flax.linen as nn
from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Denoiser


@dataclasses.dataclass(frozen=True)
class Sprint:
  """Networks and settings of a distillation.

  Attributes:
    student: embeds the guidance scale; its path is a TrigFlow.
    teacher: has the same path; None for a student that trains on the data.
    heads: the discriminator on features of the teacher; see models/ladd.py.
    settings: config.sprint.
    ladd: config.ladd.
  """

  student: Denoiser
  teacher: Denoiser | None
  heads: nn.Module
  settings: ConfigDict
  ladd: ConfigDict

  @property
  def has_target(self) -> bool:
    """Whether an EMA of the student is the target of the discrete loss."""
    return self.settings.loss == 'discrete' and self.settings.target_decay > 0

  @property
  def is_adversarial(self) -> bool:
    """Whether there is a discriminator."""
    return self.ladd.weight > 0

  @property
  def takes_turns(self) -> bool:
    """Whether student and discriminator move in alternating steps."""
    return self.is_adversarial and self.ladd.turns == 'alternate'
