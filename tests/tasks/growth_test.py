"""config.grow: a run starts from a model of fewer blocks."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from sana_jax import config as base
from sana_jax.errors import UserError
from sana_jax.models import abstract
from sana_jax.models.sana import Sana
from sana_jax.sharding import rules, tables
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.weights import exchange, growing, hub, sana, table
from sana_jax.weights import folder as folders

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
GROWTH = growing.Growth(5, 'constant', drop=1, seed=4)
LOAD = """
import json, pathlib, resource, sys
import jax
address, index, folder, depth = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tasks import init_from
from sana_jax.weights import folder as folders
from sana_jax.weights.growing import Growth
module = folders.describe(pathlib.Path(folder), 'transformer')
module = module.clone(depth=int(depth))
start = init_from.start('transformer', module, grow=Growth(int(depth)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
mesh, before = make_mesh({'fsdp': 2}), peak()
params = jax.block_until_ready(start.load(folder, mesh))
print(json.dumps([sum(x.nbytes for x in jax.tree.leaves(params)),
                  peak() - before]))
"""


@pytest.fixture(scope='module')
def model():
  return folders.load(FOLDER, 'transformer')


@pytest.mark.long
def test_grown_weights_are_on_their_shards(model):
  mesh = make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  target = model.module.clone(depth=5)
  given = init_from.start('transformer', target, grow=GROWTH).load(
    str(FOLDER), mesh
  )
  part = exchange.open_source(str(FOLDER)).parts['transformer']
  wanted = table.load(
    [r.under('params') for r in sana.rules()],
    growing.grown(*part, GROWTH)[1],
    {'params': abstract.transformer(target)},
  )['params']
  jax.tree.map(np.testing.assert_array_equal, given, wanted)
  shardings = rules.shardings(wanted, tables.SANA, mesh)
  assert jax.tree.map(lambda x: x.sharding, given) == shardings


def grown_config(**changes):
  config = base.train('sana')
  config.init_from = str(FOLDER)
  config.model.depth = 5
  config.grow.update(strategy='constant', drop=1)
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.fast
def test_a_run_has_its_own_depth_and_the_rest_of_the_model(model, tmp_path):
  config = grown_config()
  base.check(config)
  init_from.set_model(config, (), tmp_path / 'run')
  assert config.model.depth == 5 and config.model.width == model.module.width
  assert init_from.growth(config) == growing.Growth(5, 'constant', drop=1)
  config.grow.strategy = ''
  assert init_from.growth(config) is None
  init_from.set_model(config, (), tmp_path / 'run')
  assert config.model.depth == model.module.depth


@pytest.mark.fast
@pytest.mark.parametrize(
  'changes, key',
  [
    ({'model.depth': 1}, 'model.depth'),
    ({'grow.drop': 2}, 'grow.drop'),
    ({'grow.zero_gate': True}, 'grow.zero_gate'),
  ],
)
def test_a_growth_that_cannot_be_is_refused_by_its_key(model, changes, key):
  config = grown_config(**changes)
  start = init_from.start(
    'transformer',
    model.module.clone(depth=config.model.depth),
    grow=init_from.growth(config),
  )
  with pytest.raises(UserError) as error:
    start.check(str(FOLDER))
  assert error.value.key == key


@pytest.mark.fast
def test_growth_needs_a_model_to_start_from():
  with pytest.raises(UserError) as error:
    base.check(grown_config(init_from=''))
  assert error.value.key == 'init_from'


@pytest.mark.long
def test_norms_may_be_added_to_a_grown_model():
  adds = {'qk_norm': True, 'cross_norm': True}
  target = folders.describe(hub.find('shapes'), 'transformer').clone(
    depth=8, **adds
  )
  growth = growing.Growth(8, 'constant', drop=1)
  start = init_from.start('transformer', target, grow=growth, adds=tuple(adds))
  start.check('shapes')
  given = start.load('shapes', make_mesh({'data': -1}))
  for layer in ('self_attention', 'cross_attention'):
    scale = given['blocks'][layer]['query_norm']['scale']
    assert scale.shape == (8, target.width) and (scale == 1).all()
  out = given['blocks']['cross_attention']['out']['kernel']
  assert [bool(x.any()) for x in np.asarray(out)] == [True] * 5 + [False] * 3


@pytest.mark.slow
def test_a_host_of_two_holds_little_more_than_half_of_the_model(tmp_path):
  module = Sana(
    width=1024,
    depth=2,
    cross_heads=8,
    in_channels=4,
    out_channels=4,
    caption_channels=8,
  )
  params = jax.jit(abstract.transformer_init(module))(jax.random.key(0))
  folders.write(tmp_path, 'transformer', module, {'params': params})
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', LOAD, address, str(i), tmp_path, '20'],
      env={'JAX_PLATFORMS': 'cpu', 'PATH': ''},
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  found = [json.loads(p.communicate(timeout=600)[0]) for p in processes]
  for size, peak in found:
    assert size > 2**30
    assert peak <= 0.6 * size, peak / size
