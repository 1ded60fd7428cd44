"""Adapters that the ledger compares: of layers, ranks and kinds, and pairs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sana_jax.tools.parity.sana import VARIANTS

ATTENTION = ('to_q', 'to_k', 'to_v', 'to_out.0')
LAYERS = (
  *(f'{block}.{layer}' for block in ('attn1', 'attn2') for layer in ATTENTION),
  'ff.conv_inverted',
  'ff.conv_point',
  'patch_embed.proj',
  'time_embed.linear',
  'time_embed.emb.timestep_embedder.linear_1',
  'time_embed.emb.timestep_embedder.linear_2',
  'caption_projection.linear_1',
  'caption_projection.linear_2',
  'proj_out',
)
GUIDANCE = tuple(
  f'time_embed.{part}_embedder.linear_{n}'
  for part in ('timestep', 'guidance')
  for n in (1, 2)
)


class Adapter(NamedTuple):
  """Fields of peft's config for an adapter, and its weight."""

  config: Mapping[str, Any] = {}
  weight: Any = 1.0


class Row(NamedTuple):
  """An adapted model: changes to its config, and adapters in order."""

  what: str
  adapters: Sequence[Adapter]
  model: Mapping[str, Any] = {}


BLOCKS = dict(target_modules=[*LAYERS[:10]])
DORA = BLOCKS | dict(use_dora=True)
ALL = dict(target_modules=list(LAYERS))
RANKS = BLOCKS | dict(
  r=2, rank_pattern={'attn2.to_q': 3, 'ff.conv_point': 1}, lora_alpha=5
)
ROWS = (
  Row('all layers', [Adapter(ALL | dict(lora_alpha=7))]),
  Row('QK-norm', [Adapter(ALL)], VARIANTS['QK-norm']),
  Row('patches of 2', [Adapter(ALL)], VARIANTS['patches of 2']),
  Row(
    "Sprint's embeddings",
    [Adapter(dict(target_modules=list(GUIDANCE)))],
    VARIANTS['guidance'],
  ),
  Row(
    'ranks and alphas by pattern',
    [Adapter(RANKS | dict(alpha_pattern={'attn1.to_k': 9}))],
  ),
  Row('rsLoRA', [Adapter(BLOCKS | dict(use_rslora=True, lora_alpha=3))]),
  Row('DoRA, all layers', [Adapter(ALL | dict(use_dora=True))]),
  Row(
    'DoRA, patches of 2',
    [Adapter(ALL | dict(use_dora=True))],
    VARIANTS['patches of 2'],
  ),
  Row(
    'two adapters with weights',
    [Adapter(BLOCKS, 0.7), Adapter(RANKS, -1.3)],
  ),
  Row('a LoRA and a DoRA', [Adapter(BLOCKS, 0.7), Adapter(DORA, 0.6)]),
  Row('two DoRAs', [Adapter(DORA, 1.2), Adapter(DORA, 0.6)]),
  Row(
    'weights by block',
    [Adapter(BLOCKS, {'transformer_blocks.0': 0.2, 'proj_out': 2.0})],
  ),
)
