"""NVILA-Lite-2B-Verifier, SANA-1.5's own judge, as a scorer."""

from sana_jax.evaluation.nvila.scorer import make

__all__ = ['make']
