"""A judge in memory: prompts and pictures to the first token of an answer.

The question is that of NVlabs' tools/inference_scaling/nvila_sana_pick.py, in
ChatML after the picture.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from sana_jax.errors import UserError
from sana_jax.evaluation.nvila import pictures
from sana_jax.models.nvila.model import IMAGE
from sana_jax.sharding.mesh import split_batch
from sana_jax.text import qwen2_tokenizer
from sana_jax.text.qwen2_tokenizer import Chat
from sana_jax.typing import DType, Images
from sana_jax.weights import nvila
from sana_jax.weights.folder import Model, reading
from sana_jax.weights.nvila_config import Settings

QUESTION = (
  'You are an AI assistant specializing in image analysis and ranking. Your '
  'task is to analyze and compare image based on how well they match the given '
  'prompt.\nThe given prompt is:{}. Please consider the prompt and the image '
  "to make a decision and response directly with 'yes' or 'no'.\n"
)
_MEDIA = ('<image>', '<vila/video>')  # Removed from prompts, as in VILA.
_MULTIPLE = 64  # Of the length of a batch, to compile few programs.


class Answer(NamedTuple):
  """First token of an answer, and the logits of yes and no."""

  token: int
  yes: float
  no: float


@dataclasses.dataclass(frozen=True)
class Judge:
  """A model, and how it is used.

  Attributes:
    ids: tokens of yes and no.
  """

  model: Model
  settings: Settings
  processor: pictures.Processor
  chat: Chat
  ids: tuple[int, int]
  mesh: Mesh | None = None

  def answers(
    self, prompts: Sequence[str], images: Images, batch: int
  ) -> list[Answer]:
    """Answers about pictures of one size, `batch` of them at a time."""
    out = []
    for start in range(0, len(prompts), batch):
      stop = start + batch
      out += self._answers(prompts[start:stop], images[start:stop], batch)
    return out

  def _answers(self, prompts, images, batch):
    """Answers of one batch, which is filled up to its full size."""
    cuts = [pictures.cut(x, self.processor, self.settings) for x in images]
    scales, count = cuts[0].scales, len(cuts[0].tiles)
    rows = [self._tokens(prompt, count, scales) for prompt in prompts]
    fill = [0] * (batch - len(rows)) + list(range(len(rows)))
    longest = max(map(len, rows))
    length = -(-longest // _MULTIPLE) * _MULTIPLE
    tokens = np.zeros((batch, length), np.int32)
    mask = np.zeros((batch, length), bool)
    for i, row in enumerate(fill):
      tokens[i, : len(rows[row])] = rows[row]
      mask[i, : len(rows[row])] = True
    tiles = np.stack([cuts[i].tiles for i in fill])
    put = self._put
    found = _first(
      self.model.module,
      scales,
      self.ids,
      self.model.variables,
      put(tiles),
      put(tokens),
      put(mask),
    )
    token, yes, no = (np.asarray(x)[-len(rows) :] for x in found)
    return [
      Answer(int(t), float(y), float(n)) for t, y, n in zip(token, yes, no)
    ]

  def _put(self, x):
    return jnp.asarray(x) if self.mesh is None else split_batch(self.mesh, x)

  def _tokens(self, prompt, tiles, scales):
    """Tokens of a question, with IMAGE for those of the picture."""
    for word in _MEDIA:
      prompt = prompt.replace(word, '').strip()
    is_row = self.settings.aspect == 'dynamic'
    slots = tiles if is_row else 1
    mark = _MEDIA[0]
    text = mark + QUESTION.format(prompt)
    if is_row:
      text = text.replace(mark, f'{mark}\n' * slots)
    size = self.model.module.count(tiles, scales) // slots
    before, after = map(self.chat.ids, self.settings.around)
    picture = [*before, *[IMAGE] * size, *after]
    first, *rest = map(self.chat.ids, self.chat.text(text).split(mark))
    return first + [t for part in rest for t in (*picture, *part)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _first(module, scales, ids, variables, tiles, tokens, mask):
  """The most likely first token, and the logits of yes and no."""
  logits = module.apply(variables, tiles, tokens, mask, scales)
  yes, no = (logits[:, i] for i in ids)
  return jnp.argmax(logits, axis=-1), yes, no


def load(
  folder: str, dtype: DType, devices: Sequence[jax.Device] = ()
) -> Judge:
  """The judge in a local folder of NVILA; raises UserError for another."""
  described = nvila.describe(folder, dtype)
  path, settings = described.folder, described.settings
  side = described.module.tower.image_size
  with reading(path):
    config = nvila.read_json(path / pictures.FILE)
    processor = pictures.processor_of(config, side)
    if settings.sizes and settings.sizes[0] != side:
      raise UserError(
        f's2_scales begins with {settings.sizes[0]}; the tower has pictures of '
        f'{side} x {side}.',
        key='s2_scales',
        value=settings.sizes,
        allowed=(side,),
      )
    chat = qwen2_tokenizer.load(path / 'llm', settings.template)
    ids = _ids(chat, described.module.llm.vocab_size)
  model, mesh = nvila.load(described, dtype, devices)
  return Judge(model, settings, processor, chat, ids, mesh)


def _ids(chat: Chat, vocabulary: int) -> tuple[int, int]:
  """First tokens of yes and no; UserError if they are the same or unknown."""
  yes, no = (chat.ids(word)[0] for word in ('yes', 'no'))
  if yes == no or max(yes, no) >= vocabulary:
    raise UserError(
      f'The tokenizer of the judge has yes as {yes} and no as {no}; they must '
      f'be two tokens below {vocabulary}.',
      key='--scorer',
      value=(yes, no),
      allowed='two tokens',
    )
  return yes, no
