"""Qwen2, the language model of the judge NVILA."""

from sana_jax.models.qwen2.transformer import Qwen2, SIZES

__all__ = ['Qwen2', 'SIZES']
