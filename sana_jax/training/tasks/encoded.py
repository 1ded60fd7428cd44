"""A data set as latents and text embeddings, computed once and kept on disk."""

from collections.abc import Sequence
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np
from tqdm import tqdm

from sana_jax.data import files
from sana_jax.inference.pipeline import Pipeline, text_length
from sana_jax.text import encode
from sana_jax.training.tasks import common
from sana_jax.training.workdir import writing
from sana_jax.weights import hub

_BATCH = 64


class Encoded:
  """Random access to {'latents', 'text', 'mask'}, all in memory.

  Embeddings are stored once for each caption; `null_text` and `null_mask` are
  those of the empty prompt.
  """

  def __init__(self, arrays: dict[str, np.ndarray]):
    self.captions = arrays['captions'].tolist()
    self.null_text, self.null_mask = arrays['null_text'], arrays['null_mask']
    self._latents, self._which = arrays['latents'], arrays['which']
    self._text, self._mask = arrays['text'], arrays['mask']

  def __len__(self) -> int:
    return len(self._latents)

  def __getitem__(self, index: int) -> dict[str, Any]:
    caption = self._which[index]
    return {'latents': self._latents[index], 'text': self._text[caption],
            'mask': self._mask[caption]}


def load_or_make(
  config: ConfigDict, pipe: Pipeline, instruction: str, workdir: pathlib.Path
) -> Encoded:
  """From workdir/encoded, if the same data and models made it; else made."""
  path = workdir / 'encoded' / f'{_digest(config, instruction)}.npz'
  if not path.exists():
    arrays = make(common.open_data(config.data), pipe, instruction)
    _write(path, arrays)
  with np.load(path) as arrays:
    return Encoded(dict(arrays))


def _write(path, arrays):
  """All of it or nothing; what was made of other data goes."""
  part = path.with_name(f'.{path.name}.{jax.process_index()}')
  try:
    with writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      with part.open('wb') as file:
        np.savez(file, **arrays)
      part.replace(path)
  finally:
    part.unlink(missing_ok=True)
  for other in path.parent.glob('*.npz'):
    if other != path:
      other.unlink(missing_ok=True)


def make(source, pipe: Pipeline, instruction: str) -> dict[str, np.ndarray]:
  """Encodes all images and all different captions of a source."""
  captions, which, latents = {}, [], []
  for images, texts in _chunks(source):
    latents.append(encode_images(pipe, images))
    which += [captions.setdefault(text, len(captions)) for text in texts]
  captions = list(captions)
  logging.info('Encoding %d different captions.', len(captions))
  text, mask, null_text, null_mask = encode_captions(
    pipe, captions, instruction)
  return {'latents': np.concatenate(latents), 'which': np.asarray(which),
          'captions': np.asarray(captions), 'text': text, 'mask': mask,
          'null_text': null_text, 'null_mask': null_mask}


def encode_images(pipe: Pipeline, images: np.ndarray) -> np.ndarray:
  """Scaled latents [n y x c] of uint8 images, compiled for one batch size."""
  padded = np.zeros((_BATCH, *images.shape[1:]), images.dtype)
  padded[:len(images)] = images
  module = pipe.autoencoder.module
  latents = _encode(module, pipe.autoencoder.variables, padded)
  return np.asarray(latents[:len(images)], np.float32)


@functools.partial(jax.jit, static_argnames='module')
def _encode(module, variables, images):
  latents = module.apply(variables, common.to_signed(images), method='encode')
  return latents * module.scaling_factor


def encode_captions(pipe: Pipeline, captions: Sequence[str], instruction: str):
  """(text, mask) of the captions and of the empty prompt, cut to fit."""
  length = max(text_length(pipe.tokenizer, captions, instruction),
               text_length(pipe.tokenizer, [''], ''))
  run = functools.partial(
    encode.encode, pipe.text_encoder.module,
    pipe.text_encoder.variables['params'], pipe.tokenizer, length=length,
    beginnings={})
  parts = []
  for start in tqdm(range(0, len(captions), _BATCH), 'captions', disable=None):
    chunk = list(captions[start:start + _BATCH])
    padded = chunk + [''] * (_BATCH - len(chunk))
    text, mask = run(padded, instruction=instruction)
    parts.append((np.asarray(text, np.float32)[:len(chunk)],
                  np.asarray(mask)[:len(chunk)]))
  text, mask = (np.concatenate(x) for x in zip(*parts))
  null_text, null_mask = run([''])
  return (text, mask, np.asarray(null_text, np.float32)[0],
          np.asarray(null_mask)[0])


def _chunks(source):
  """(images, captions) of up to _BATCH records at a time, without bad ones."""
  images, captions = [], []
  for record in tqdm(common.good_records(source), 'latents', len(source),
                     unit='image', disable=None):
    images.append(record['image'])
    captions.append(record['caption'])
    if len(images) == _BATCH:
      yield np.stack(images), captions
      images, captions = [], []
  if images:
    yield np.stack(images), captions


def _digest(config, instruction):
  """Of everything that the arrays depend on, the models' files included."""
  data = config.data.to_dict()
  del data['index_path']
  # `shapes` follows from the other keys, wherever it lies.
  path = os.path.expanduser(data.pop('path'))
  listing = {} if config.data.source == 'shapes' else files.around(path)
  digest = hashlib.sha256(json.dumps(
    [data, listing, instruction], sort_keys=True).encode())
  for key, part in (('autoencoder', 'vae'), ('text_encoder', 'text_encoder')):
    folder = hub.find(config[key]) / part
    for path in sorted(folder.iterdir()):
      digest.update(path.name.encode() + path.read_bytes())
  return digest.hexdigest()[:16]

