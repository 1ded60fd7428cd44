"""Networks and settings of a distillation, for its losses."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from sana_jax.diffusion.denoiser import Denoiser
from sana_jax.diffusion.paths import Path, Prediction
from sana_jax.typing import Params, PyTree


@dataclasses.dataclass(frozen=True)
class Adaptable:
  """A denoiser of parameters that may have the factors of adapters.

  Attributes:
    split: parameters -> (the network's, its adapters or None).
  """

  denoiser: Denoiser
  split: Callable[[Params], tuple[Params, PyTree]]

  @property
  def path(self) -> Path:
    """The path of the denoiser."""
    return self.denoiser.path

  def __call__(self, params: Params, *args: Any, **more: Any) -> Prediction:
    """The denoiser's prediction."""
    params, adapters = self.split(params)
    return self.denoiser(params, *args, adapters=adapters, **more)


@dataclasses.dataclass(frozen=True)
class Sprint:
  """Networks and settings of a distillation.

  Attributes:
    student: embeds the guidance scale; its path is a TrigFlow.
    teacher: has the same path; None for a student that trains on the data.
    heads: the discriminator on features of the teacher; see models/ladd.py.
    settings: config.sprint.
    ladd: config.ladd.
    factors: key of the adapters' factors among the student's parameters, which
      then train alone; '' without.
    split: the student's parameters -> (the network's, its adapters or None).
  """

  student: Denoiser
  teacher: Denoiser | None
  heads: nn.Module
  settings: ConfigDict
  ladd: ConfigDict
  factors: str = ''
  split: Callable[[Params], tuple[Params, PyTree]] = lambda params: (
    params,
    None,
  )

  @property
  def network(self) -> Adaptable:
    """The student, for its parameters with any factors."""
    return Adaptable(self.student, self.split)

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
