"""Rounds of pictures that the sampling policy draws, with their rewards.

A round is a function of the policy, the seed and its number: a resumed run
draws that of its step again, to the bit.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from sana_jax.inference import decoding
from sana_jax.inference.pipeline import Pipeline
from sana_jax.objectives import policy
from sana_jax.printable import counted
from sana_jax.sharding.mesh import to_host
from sana_jax.tasks.preference import rewards
from sana_jax.tasks.sana import encoders
from sana_jax.text import encode
from sana_jax.typing import Array, Float, Int, Params, PyTree
from sana_jax.weights.folder import Model

Rows = dict[str, np.ndarray]  # Of objectives.policy.described_batch.


class Choice(NamedTuple):
  """Prompts of a round by number, and a seed for each."""

  prompts: Int[np.ndarray, '_']
  seeds: Int[np.ndarray, '_']


def choice(seed: int, number: int, prompts: int, count: int) -> Choice:
  """`count` of the prompts, distinct if there are enough."""
  rng = np.random.default_rng((seed, number))
  return Choice(
    rng.choice(prompts, count, replace=prompts < count),
    rng.integers(2**31 - 1, size=count),
  )


def order(
  seed: int, number: int, step: int, pictures: int, batch_size: int
) -> Int[np.ndarray, 'b']:
  """Pictures of a round's `step`, which go through it in shuffled passes."""
  places = step * batch_size + np.arange(batch_size)
  orders = {
    turn: np.random.default_rng((seed, number, int(turn))).permutation(pictures)
    for turn in np.unique(places // pictures)
  }
  return np.array(
    [orders[place // pictures][place % pictures] for place in places]
  )


@dataclasses.dataclass
class Rollouts:
  """Batches of pictures that the run draws; its call is training.task.Collect.

  Attributes:
    pipe: the pipeline, without a transformer.
    model: parameters of a run -> the transformer of the sampling policy.
    length: of the prompts in tokens.
    scorer: (prompts, images) -> rewards.
    found: number of the latest round, and its pictures.
  """

  config: ConfigDict
  prompts: Sequence[str]
  pipe: Pipeline
  model: Callable[[Params], Model]
  length: int
  scorer: Callable
  found: tuple[int, Rows] | None = None

  def __call__(self, params: Params, batch: PyTree, steps: int) -> Rows:
    """Rows `batch['row']` of the batch after `steps` steps."""
    number, step = divmod(steps, self.config.nft.round_steps)
    if self.found is None or self.found[0] != number:
      self.found = number, self.drawn(params, number)
    rows = self.found[1]
    places = order(
      self.config.seed,
      number,
      step,
      len(rows['reward']),
      self.config.batch_size,
    )[batch['row']]
    return {name: x[places] for name, x in rows.items()}

  def drawn(self, params: Params, number: int) -> Rows:
    """All pictures of a round."""
    settings = self.config.nft
    chosen = choice(
      self.config.seed, number, len(self.prompts), settings.prompts_per_round
    )
    each = settings.images_per_prompt
    pipe = self.pipe.replace(transformer=self.model(params))
    prompts = np.repeat(chosen.prompts, each)
    seeds, numbers = (
      np.repeat(chosen.seeds, each),
      np.tile(np.arange(each), len(chosen.prompts)),
    )
    size = self.config.batch_size  # A step has room for so many.
    parts = [
      self._part(pipe, *(x[i : i + size] for x in (prompts, seeds, numbers)))
      for i in range(0, len(prompts), size)
    ]
    rows = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    scores = rows['reward'].reshape(-1, each)
    weights = policy.weights(scores, settings.clip)
    logging.info(
      'Round %d: %s, mean reward %.4f.',
      number,
      counted(len(prompts), 'picture'),
      scores.mean(),
    )
    return rows | {
      'reward': rows['reward'].astype(np.float32),
      'weight': weights.reshape(-1).astype(np.float32),
    }

  def _part(self, pipe, prompts, seeds, numbers) -> Rows:
    count, size = len(prompts), self.config.batch_size
    # Repeated to a full batch, for one compiled shape.
    prompts, seeds, numbers = (
      np.resize(x, size) for x in (prompts, seeds, numbers)
    )
    texts = [self.prompts[i] for i in prompts]
    text = self.text(texts, encoders.instruction_of(self.config))
    settings = self.config.nft
    latents = pipe.denoise(
      pipe.noise(jnp.asarray(seeds), jnp.asarray(numbers), 2 * (pipe.size_px,)),
      text,
      self.text([''], ''),
      steps=settings.steps,
      guidance=settings.guidance_scale,
    )
    images = decoding.to_uint8(pipe.decode(latents))
    latents, text, mask, images = (
      to_host(x)[:count] for x in (latents, *text, images)
    )
    found = rewards.of_pictures(
      self.scorer, settings.reward, texts[:count], images
    )
    return {'latents': latents, 'text': text, 'mask': mask, 'reward': found}

  def text(
    self, texts: Sequence[str], instruction: str
  ) -> tuple[Float[Array, 'b m e'], Array]:
    """Embeddings and mask of texts, all of one length."""
    return encode.encode(
      self.pipe.text_encoder.module,
      self.pipe.text_encoder.variables['params'],
      self.pipe.tokenizer,
      texts,
      instruction=instruction,
      length=self.length,
      prefix_cache=self.pipe.cache,
      put=self.pipe.split,
    )

  def null_text(self) -> dict[str, np.ndarray]:
    """The loss's inputs for dropped captions."""
    text, mask = jax.device_get(self.text([''], ''))
    return {'null_text': text[0], 'null_mask': mask[0]}
