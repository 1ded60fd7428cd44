"""SigLIP's vision tower, the eyes of the judge NVILA."""

from sana_jax.models.siglip.tower import SigLIP, SIZES

__all__ = ['SigLIP', 'SIZES']
