"""The `shapes` data set: captioned scenes with exact ground truth."""

from sana_jax.data.shapes.captions import (
  captions,
  COLORS,
  EXAMPLES,
  KINDS,
  meaning,
  NEW_SHAPES,
  phrasings,
  Requirement,
  requirements,
  SHAPES,
  Want,
  words,
)
from sana_jax.data.shapes.render import PALETTE, render
from sana_jax.data.shapes.scenes import compose, Object, Scene, scene, WEIGHTS

__all__ = [
  'captions',
  'COLORS',
  'compose',
  'EXAMPLES',
  'KINDS',
  'meaning',
  'NEW_SHAPES',
  'Object',
  'PALETTE',
  'phrasings',
  'render',
  'Requirement',
  'requirements',
  'Scene',
  'scene',
  'SHAPES',
  'Want',
  'WEIGHTS',
  'words',
]
