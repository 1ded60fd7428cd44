"""The smallest Sana under adapters, as a task."""

import flow

from sana_jax import config as configs
from sana_jax import tasks

WIDTH, DEPTH = 64, 2


def config(lora, **fields):
  out = configs.train('sana').unlock()
  out.model = dict(
    width=WIDTH,
    depth=DEPTH,
    cross_heads=2,
    in_channels=4,
    out_channels=4,
    caption_channels=8,
    sample_size=4,
    text_norm_scale=1.0,
    **fields,
  )
  out.inputs.text_length = 6
  out.lora.update(lora)
  return out


class Adapted(flow.Flow):
  """Flow, of which only the adapters train."""

  def __init__(self, lora, **fields):
    super().__init__()
    self.objective = tasks.objective(config(lora, **fields))
    self._loss = self.objective.loss
