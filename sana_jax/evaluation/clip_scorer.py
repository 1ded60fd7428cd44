"""CLIP score of how well pictures follow their prompts.

  --scorer clip:DIR   a folder with a CLIP model, see sana_jax/weights/clip.py

The score is exp(logit_scale) cos of both features, 100 cos for the published
models, without a clamp and of the first 77 tokens of the prompt, as in the
evaluation of SANA (arXiv:2410.10629). Others report max(100 cos, 0), or
2.5 max(cos, 0).
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import pathlib

import jax
import numpy as np

from sana_jax.errors import UserError
from sana_jax.evaluation import clip_images
from sana_jax.models.clip import CLIP
from sana_jax.paths import expanded
from sana_jax.printable import printable
from sana_jax.text import clip_tokenizer
from sana_jax.typing import Float, Images
from sana_jax.weights import clip

_BATCH = 32  # Most pictures or prompts of a call.
_KNOWN = 10_000  # Prompts whose features are kept.


def make(name: str, key: str = '--scorer') -> Callable:
  """The scorer of clip:DIR.

  Raises:
    UserError: the folder has no CLIP model, or a damaged one.
  """
  folder = _folder(name, key)
  module, variables = clip.load(folder)
  tokenizer = clip_tokenizer.load(folder)
  _check_vocabulary(folder, module, tokenizer)
  preprocess = clip_images.read(folder, module.image_size)
  tokens = functools.partial(
    clip_tokenizer.encode, tokenizer, length=module.length
  )
  image_features, text_features, pair_scores = (
    _compiled(module, variables, method)
    for method in ('image_features', 'text_features', 'score')
  )
  known = {}

  def texts(prompts):
    new = list(dict.fromkeys(x for x in prompts if x not in known))
    if len(known) + len(new) > _KNOWN:
      known.clear()
      new = list(dict.fromkeys(prompts))
    if new:
      known.update(zip(new, text_features(tokens(new))))
    return np.stack([known[x] for x in prompts])

  def score(prompts: Sequence[str], images: Images) -> Float[np.ndarray, 'b']:
    features = texts(prompts)
    return pair_scores(image_features(preprocess(images)), features)

  score.check = lambda prompt: tokens([prompt])
  return score


def _folder(name, key):
  kind, _, path = name.partition(':')
  folder = pathlib.Path(expanded(path))
  if not path or not folder.is_dir():
    raise UserError(
      f'{key} is {printable(repr(name), 200)}, but there is no folder '
      f'{printable(repr(path), 200)}: {kind}:DIR is one with a CLIP model, and '
      f'your own module cannot be a scorer as {kind}; rename it.',
      key=key,
      value=name,
      allowed=f'{kind}:DIR',
    )
  return folder


def _check_vocabulary(folder, module: CLIP, tokenizer):
  """Raises UserError unless the model finds the end of a text."""
  size, eos = len(tokenizer), tokenizer.eos_token_id
  wanted = size - 1 if module.eos_id is None else module.eos_id
  if size > module.vocab_size or eos != wanted:
    raise UserError(
      f'{printable(folder, 300)}: the tokenizer has {size:,} tokens and ends a '
      f'text with {eos}, but the model has {module.vocab_size:,} tokens and '
      f'reads a text at {wanted}; copy the tokenizer of this model.',
      key='eos_token_id',
      value=(size, eos),
      allowed=(module.vocab_size, wanted),
    )


def _compiled(module, variables, method):
  """Method of the model on arrays of any number of rows, as NumPy.

  Rows are computed in batches of a power of two, so that few programs are
  compiled.
  """
  call = jax.jit(functools.partial(module.apply, method=method))

  def run(*arrays):
    parts = []
    for rows in _batches(len(arrays[0])):
      # bfloat16 matmuls, the default of a TPU, would move scores by 1e-2.
      with jax.default_matmul_precision('float32'):
        found = call(variables, *(x[rows] for x in arrays))
      parts.append(np.asarray(found))
    return np.concatenate(parts)[: len(arrays[0])]

  return run


def _batches(count: int) -> Iterator[np.ndarray]:
  """Indices of each batch; the last row is repeated to fill the last one."""
  for start in range(0, count, _BATCH):
    rows = min(_BATCH, count - start)
    filled = 1 << (rows - 1).bit_length()
    yield np.minimum(np.arange(start, start + filled), count - 1)
