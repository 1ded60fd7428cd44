"""Gemma-2 as a text encoder."""

from sana_jax.models.gemma2.transformer import Gemma2, SIZES

__all__ = ['Gemma2', 'SIZES']
