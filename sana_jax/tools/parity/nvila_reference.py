"""NVILA, assembled from transformers' towers and PyTorch's layers.

Written from the definition, with loops over tiles and tokens.
"""

import numpy as np
import torch
import torch.nn.functional as F

from sana_jax.tools.parity import references

_WIDTHS = {  # Of the dense layers but the last two, in thirds of the input.
  'mlp_downsample_2x2_fix': (2, []),
  'mlp_downsample_3x3_fix': (3, [9]),
  'mlp_downsample_3x3_s2': (3, [9, 3, 1]),
  'mlp_downsample_3x3_s2_new': (3, [12, 6, 3, 1]),
}


class Merge(torch.nn.Module):
  """Squares of patches as channels, by a loop over offsets."""

  def __init__(self, merge):
    super().__init__()
    self.merge = merge

  def forward(self, x):
    n = self.merge
    x = F.pad(x, (0, 0, 0, -x.shape[2] % n, 0, -x.shape[1] % n))
    parts = [x[:, i::n, j::n] for i in range(n) for j in range(n)]
    return torch.cat(parts, dim=-1)


class Projector(torch.nn.Module):
  """Projector with the names of NVlabs/VILA."""

  def __init__(self, kind, width, out):
    super().__init__()
    merge, thirds = _WIDTHS[kind]
    sizes = [width * merge**2, *(width * n // 3 for n in thirds), out]
    layers = [Merge(merge)]
    for a, b in zip(sizes, sizes[1:]):
      layers += [
        torch.nn.LayerNorm(a),
        torch.nn.Linear(a, b),
        torch.nn.GELU(),
      ]
    self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(out, out))

  def forward(self, x):
    return self.layers(x)


class Judge(torch.nn.Module):
  """The three parts, with the names of a flat file."""

  def __init__(self, tower, projector, llm):
    super().__init__()
    self.vision_tower, self.mm_projector, self.llm = tower, projector, llm


def halve(model: torch.nn.Module):
  """Casts parameters only: `.bfloat16()` also rounds the rotary frequencies."""
  for p in model.parameters():
    p.data = p.data.bfloat16()


def tokens(seed: int, count: int, vocabulary: int):
  """Ids with -1 for each of `count` tokens of a picture, and their mask."""
  rng = np.random.default_rng(seed)
  rows = [
    [
      *rng.integers(vocabulary, size=4),
      *[-1] * count,
      *rng.integers(vocabulary, size=size),
    ]
    for size in (9, 5)
  ]
  length = max(map(len, rows))
  mask = np.array([[i < len(row) for i in range(length)] for row in rows])
  ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
  return ids, mask


@torch.no_grad()
def logits(judge: Judge, seed: int, images: np.ndarray, scales) -> np.ndarray:
  """Logits of the first token, one example at a time and without padding."""
  dtype = next(judge.parameters()).dtype
  out = []
  for i, tiles in enumerate(images):
    given = torch.tensor(references.channels_first(tiles)).to(dtype)
    states = judge.vision_tower(given, output_hidden_states=True)
    x = states.hidden_states[-2]
    side = int(x.shape[1] ** 0.5)
    seen = _seen(judge, x.reshape(len(tiles), side, side, -1), scales)
    vocabulary = judge.llm.config.vocab_size
    ids, mask = tokens(seed, len(seen), vocabulary)
    row = torch.tensor(ids[i][mask[i]])
    embed = judge.llm.get_input_embeddings()
    text, at = embed(row.clamp(min=0)), row < 0
    text[at] = seen
    given = dict(inputs_embeds=text[None], use_cache=False)
    out.append(judge.llm(**given).logits[0, -1])
  return references.as_array(torch.stack(out))


def _seen(judge, maps, scales):
  """Tokens of one picture, [s d], of the maps of its tiles."""
  if scales is None:
    return torch.cat(
      [judge.mm_projector(m[None])[0].flatten(0, 1) for m in maps]
    )
  whole, start = [], 0
  for rows, columns in scales.grids:
    tiles = maps[start : start + rows * columns]
    start += rows * columns
    whole.append(
      torch.cat(
        [
          torch.cat(list(tiles[r * columns : (r + 1) * columns]), dim=1)
          for r in range(rows)
        ]
      )
    )
  size = whole[scales.output].shape[:2]
  joined = torch.cat(
    [
      F.interpolate(
        m.permute(2, 0, 1)[None].float(), size=tuple(size), mode='area'
      )[0].to(m.dtype)
      for m in whole
    ]
  ).permute(1, 2, 0)
  if not scales.by_tile:
    return judge.mm_projector(joined[None])[0].flatten(0, 1)
  side = maps.shape[1]
  rows = [
    torch.cat(
      [judge.mm_projector(block[None])[0] for block in row.split(side, dim=1)],
      dim=1,
    )
    for row in joined.split(side, dim=0)
  ]
  return torch.cat(rows).flatten(0, 1)
