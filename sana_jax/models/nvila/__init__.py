"""NVILA, a language model that sees: the judge of SANA-1.5."""

from sana_jax.models.nvila.model import NVILA
from sana_jax.models.nvila.projector import Projector

__all__ = ['NVILA', 'Projector']
