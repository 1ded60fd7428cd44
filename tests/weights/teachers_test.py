"""Parts are added to a transformer's files, most of which are not read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.tree import leaves
from sana_jax.weights import additions, exchange, folder, hub, table, teachers

pytestmark = pytest.mark.fast


@pytest.fixture(scope='module')
def shipped():
  return exchange.open_source('shapes').parts['transformer']


@pytest.mark.long
def test_the_tensors_are_those_of_the_added_parameters(shipped):
  part, fit = teachers.added(shipped, {**teachers.DENSE, **teachers.NORMS}, 3)
  model = folder.load(hub.find('shapes'), 'transformer')
  target = model.module.clone(**teachers.DENSE, **teachers.NORMS)
  params = additions.adapted(
    model.variables['params'], model.module, target, jax.random.key(3)
  )
  kind = folder.kinds.of_config(part.config, 'transformer')
  assert kind.module(part.config, jnp.float32) == target
  wanted = {'params': params}
  found = table.load(kind.rules(target), part.tensors, kind.shapes(target))
  wanted, found = leaves(wanted), leaves(found)
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    # Compiled or not, the solution of the fit differs by rounding.
    np.testing.assert_allclose(found[name], x, atol=1e-2, err_msg=name)
  assert fit.rmse < 0.012


@pytest.mark.long
def test_only_the_time_embedding_is_read(shipped):
  read = []

  def watched(key, tensor):
    def fetch(start, stop):
      read.append(key)
      return tensor.fetch(start, stop)

    return dataclasses.replace(tensor, fetch=fetch)

  tensors = {key: watched(key, x) for key, x in shipped.tensors.items()}
  part = shipped._replace(tensors=tensors)
  new, _ = teachers.added(part, {**teachers.DENSE, **teachers.NORMS})
  assert read and all('timestep_embedder' in key for key in read)
  kept = tensors.keys() - set(read)
  assert all(new.tensors[key] is tensors[key] for key in kept)


def test_other_keys_of_the_config_stay(shipped):
  part = shipped._replace(config={**shipped.config, '_note': 'kept'})
  new, fit = teachers.added(part, teachers.NORMS)
  assert fit is None  # The time embedding is the same.
  differ = {key for key in new.config if new.config[key] != part.config[key]}
  assert differ == {'qk_norm'} and new.config['_note'] == 'kept'


def test_a_part_that_is_there_already_raises(shipped):
  part, _ = teachers.added(shipped, teachers.DENSE)
  with pytest.raises(UserError) as error:
    teachers.added(part, teachers.DENSE)
  assert (error.value.key, error.value.value) == ('timestep_scale', 0.001)
