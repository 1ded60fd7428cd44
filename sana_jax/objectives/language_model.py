"""Language-model objective of a text encoder: next and previous tokens.

Next-token prediction alone is a poor objective here: with 31 words the last
states soon encode only that a shape comes next, whichever colour was read.
(Captions that differ in a colour differed by 0 to 13 % in them, and SANA had
learned 7 of 24 prompts after 128,000 images.) Each state therefore also
predicts its own token and the seven before it, through matrices that are
dropped after training.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from sana_jax.objectives.base import Aux, Objective, Player
from sana_jax.sharding.rules import Table
from sana_jax.typing import Array, Keys, Params, PyTree

LOOK_BACK = 8  # Tokens that a state must predict: its own and those before.


def objective(
  module: nn.Module,
  *,
  rules: Table,
  length: int,
  first: int,
  weight: float,
) -> Objective:
  """Objective of `module`, which has Gemma2's signature, as `encoder`.

  Args:
    rules: sharding table of the module's parameters.
    length: length of a sequence, in tokens.
    first: first state with a loss.
    weight: weight of the loss of previous tokens.
  """
  rules = (
    *((f'encoder/{path}', spec) for path, spec in rules),
    ('look_back/kernel', ()),
  )
  loss = functools.partial(caption_loss, module, first, weight)
  return Objective(
    functools.partial(_init, module),
    rules,
    (Player('model', loss),),
    lambda batch_size: {
      'tokens': jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    },
  )


def _init(module, rng):
  tokens, width = jnp.zeros((1, 2), int), module.width
  encoder_rng, head_rng = jax.random.split(rng)
  heads = jax.random.normal(head_rng, (LOOK_BACK, width, width))
  return {
    'encoder': module.init(encoder_rng, tokens, tokens == 0)['params'],
    'look_back': {'kernel': heads * width**-0.5},
  }


def caption_loss(
  module: nn.Module,
  first: int,
  weight: float,
  params: Params,
  frozen: PyTree,
  batch: PyTree,
  rngs: Keys,
  step: Array | int,
) -> tuple[Array, Aux]:
  """Mean cross entropy of the next token and, weighted, of previous ones."""
  del frozen, rngs, step
  tokens = batch['tokens']
  states = module.apply(
    {'params': params['encoder']},
    tokens[:, :-1],
    jnp.ones_like(tokens[:, :-1], bool),
  )[:, first:]
  table = params['encoder']['embed']['embedding']
  heads = params['look_back']['kernel']

  def cross_entropy(states, offset):
    """Cross entropy of the tokens `offset` places after the states."""
    start = first + offset
    wanted = tokens[:, start : start + states.shape[1]]
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(
        states.astype(jnp.float32) @ table.T, wanted
      )
    )

  following = cross_entropy(states, 1)
  looked_back = [cross_entropy(states @ heads[k], -k) for k in range(LOOK_BACK)]
  return following + weight * sum(looked_back), Aux(
    {
      'next_token': following,
      'own_token': looked_back[0],
      'earliest_token': looked_back[-1],
    }
  )
