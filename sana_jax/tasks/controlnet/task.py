"""Trains a ControlNet of a frozen Sana by flow matching.

  params = copies of the base's first blocks, and layers initialised to zero
  loss   = that of task `sana`, of the base with the net's outputs

The base and its embeddings, which the net shares, the autoencoder and the text
encoder are frozen; captions are dropped as for the base, for guidance. At step
0 the network equals the base; in the first step only the layers behind the
net's blocks have a gradient.
"""

import dataclasses
import functools

from ml_collections import ConfigDict

from sana_jax.models import abstract
from sana_jax.models.controlled import ControlledSana, network
from sana_jax.models.controlnet import (
  controlnet_of,
  first_params,
  with_embeddings,
)
from sana_jax.models.sana import Sana
from sana_jax.objectives import flow_matching
from sana_jax.objectives.base import Objective
from sana_jax.registry import Kind
from sana_jax.sharding import tables
from sana_jax.tasks import common
from sana_jax.tasks.controlnet import base as bases
from sana_jax.tasks.controlnet import exports, inputs
from sana_jax.tasks.controlnet.samples import Samples
from sana_jax.tasks.sana import exports as sana_exports
from sana_jax.tasks.sana.inputs import data
from sana_jax.tasks.sana.task import check_size
from sana_jax.training.task import Exporter, Task
from sana_jax.weights import folder as folders


def objective(config: ConfigDict) -> Objective:
  """Flow matching of a net of config.model, with its control latents."""
  return _objective(config, _network(config, common.build(Sana, config)))


def exporter(config: ConfigDict) -> Exporter:
  """Writes a SanaControlNetPipeline's folder, with copies of the others."""
  others = sana_exports.folders_of(config)
  module = _network(config, _base(config, others))
  return Exporter(
    _objective(config, module),
    functools.partial(exports.write, module, config, others),
    bases.start(config, module),
  )


def open_task(config: ConfigDict, workdir, mesh=None) -> Task:
  """The task with its data and the frozen transformer."""
  exported = exporter(config)
  others = sana_exports.folders_of(config)
  check_size(config, folders.describe(others['autoencoder'], 'vae'))
  module = _network(config, _base(config, others))
  base = bases.load(config, module.base, mesh)
  given = inputs.make(config, workdir, mesh)
  samples = Samples(config, module, base)
  return Task(
    'controlnet',
    _objective(config, module, given.encode),
    data(config, given),
    exported.write,
    given.frozen | {'base': base},
    samples.draw,
    exported.start,
    models={'base': ('controlnet.base', bases.name_of(config))},
  )


KIND = Kind(objective, exporter, open_task, part='transformer')


def _base(config, others) -> Sana:
  return common.build(Sana, config, **sana_exports.sizes(others))


def _network(config, base) -> ControlledSana:
  bases.check(config, base)
  settings = config.controlnet
  net = controlnet_of(base, settings.depth, settings.wiring)
  return network(base, (net,))


def whole(params, frozen):
  """All parameters of the base with its net."""
  return {
    'base': frozen['base'],
    'nets': (with_embeddings(params, frozen['base']),),
  }


def _objective(config, module, encode=None) -> Objective:
  init = abstract.transformer_init(module.base)
  plain = flow_matching.objective(
    module,
    config.flow,
    init=lambda rng: first_params(init(rng), config.controlnet.depth),
    rules=tables.CONTROLNET_TRAINED,
    tokens=config.inputs.text_length,
    encode=encode or _described,
    whole=whole,
  )
  return dataclasses.replace(
    plain,
    batch=lambda size: _with_control(plain.batch(size)),
    frozen=lambda: plain.frozen() | {'base': abstract.transformer(module.base)},
    frozen_rules={'base': tables.SANA},
  )


def _with_control(batch):
  """A described batch, with control latents in the size of the others."""
  return batch | {'control': batch['latents']}


def _described(frozen, batch):
  """Batches of cached latents, as a plan describes them."""
  del frozen
  return batch | {'control': (inputs.hint(batch['control']),)}
