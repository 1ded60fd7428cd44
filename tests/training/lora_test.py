"""Training adapters: only factors train, on any layout, without big buffers."""

import flow
import jax
import lora_flow
import numpy as np
import optax
import pytest
import toy

from sana_jax import tasks
from sana_jax.analysis import hlo
from sana_jax.models.lora import KEY
from sana_jax.sharding.mesh import make_mesh
from sana_jax.tools.plan import steps
from sana_jax.training.state import first_key
from sana_jax.tree import leaves, unflatten

LORA = {'rank': 4, 'targets': '.*'}
LAYOUTS = [
  {'data': 8},
  {'data': 2, 'fsdp': 4},
  {'fsdp': 2, 'tensor': 2, 'data': 2},
  {'sequence': 2, 'data': 4},
]
SETTINGS = {
  **flow.SETTINGS,
  'num_steps': 2,
  'optimizer': {'name': 'adamw', 'learning_rate': 1e-2, 'clip_norm': 0.0},
}
KINDS = {
  'LoRA': LORA,
  'DoRA': LORA | {'dora': True},
  'rsLoRA': {'rank': 2, 'alpha': 3.0, 'rslora': True},
}


def bits(tree):
  return {name: np.asarray(x).tobytes() for name, x in leaves(tree).items()}


@pytest.mark.long
def test_only_the_factors_train_and_the_base_stays_to_the_bit(tmp_path):
  task = lora_flow.Adapted(KINDS['DoRA'])
  config = toy.get_config(mesh={'data': 8}, **SETTINGS)
  state = toy.run(tmp_path / 'run', task, mesh={'data': 8}, **SETTINGS)
  assert set(state.params) == set(state.ema) == {KEY}
  moments = state.players['model'].opt_state
  largest = max(x.size for x in jax.tree.leaves(state.params))
  assert max(x.size for x in jax.tree.leaves(moments)) == largest
  with np.load(tmp_path / 'run/model/model.npz') as file:
    written = {k.strip("[]'").replace("']['", '/'): file[k] for k in file.files}
  planned = toy.plan_run(config, task.make(), make_mesh(config.mesh))
  first = bits(planned.make_base(first_key(config.seed)))
  base = {k: x for k, x in written.items() if not k.startswith(KEY)}
  assert bits(unflatten(base)) == first


@pytest.mark.slow
def test_layouts_agree_with_one_device():
  run = lambda mesh, devices=None: toy.steps(
    lora_flow.Adapted(KINDS['DoRA'], qk_norm=True, cross_norm=True),
    devices,
    mesh=mesh,
    **SETTINGS,
  )[-1]
  (want, metrics) = run({'data': 1}, jax.devices()[:1])
  for mesh in LAYOUTS:
    got, found = run(mesh)
    np.testing.assert_allclose(found['loss'], metrics['loss'], rtol=1e-5)
    for (name, a), b in zip(
      leaves(got.params).items(), jax.tree.leaves(want.params)
    ):
      np.testing.assert_allclose(
        a, b, rtol=1e-3, atol=1e-4, err_msg=f'{mesh} {name}'
      )


@pytest.mark.long
@pytest.mark.parametrize('mesh', LAYOUTS)
def test_factors_are_sharded_like_their_kernels(mesh):
  mesh = make_mesh(mesh)
  objective = tasks.objective(lora_flow.config(LORA))
  optimizers = {player.name: optax.adam(1e-3) for player in objective.players}
  planned = toy.plan(objective, optimizers, mesh)
  spec = lambda name: (*leaves(planned.state.params)[name].sharding.spec,)
  axis = lambda name: name if name in mesh.shape else None
  path = f'{KEY}/blocks/self_attention'
  assert spec(f'{path}/query/down')[1] == axis('fsdp')
  assert spec(f'{path}/query/up')[2] == axis('tensor')
  assert spec(f'{path}/out/down')[1] == axis('tensor')
  assert spec(f'{path}/out/up')[2] == axis('fsdp')


@pytest.mark.long
@pytest.mark.parametrize('kind', ['LoRA', 'DoRA'])
def test_a_step_holds_no_array_larger_than_the_weight_of_one_layer(kind):
  """A gradient of the base, or a merged copy, would be one of a whole stack.

  In float32: a CPU, which has no bfloat16 matmul, widens all weights.
  """
  config = lora_flow.config(
    KINDS[kind] | {'rank': 16, 'targets': 'attn.* ff.*'}
  )
  config.model.update(width=128, depth=6, remat='full')
  config.batch_size = 1
  program = steps.train(config, make_mesh({}, jax.devices()[:1]), 4)
  base = leaves(program.args[1].base)
  block = max(
    np.prod(x.shape[1:]) * 4
    for name, x in base.items()
    if name.startswith('blocks/')
  )
  given = {'parameter', 'tuple', 'get-tuple-element', 'while', 'bitcast'}
  compiled = program.lower().compile()
  assert [
    (x.opcode, x.shape)
    for x in hlo.parse(compiled.as_text()).instructions()
    if x.opcode not in given and hlo.size(x.shape) > block
  ] == []


@pytest.mark.long
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_loaded_base_takes_the_arrays_of_the_model(dtype):
  """Two copies at the start of a run would not fit where one step fits."""
  config = lora_flow.config(LORA | {'base_dtype': dtype})
  planned = steps.plan(config, make_mesh({'fsdp': 2, 'data': 4}))
  key = first_key(0)
  loaded = planned.make_base(key)
  before, live = bits(loaded), len(jax.live_arrays())
  base = planned.make_base(key, loaded)
  assert all(x.is_deleted() for x in jax.tree.leaves(loaded))
  assert bits(base) == before
  assert len(jax.live_arrays()) == live


@pytest.mark.long
def test_the_base_is_stored_in_the_type_of_the_arithmetic():
  config = lora_flow.config(LORA)
  config.dtype = 'bfloat16'
  planned = steps.plan(config, make_mesh({}, jax.devices()[:1]))
  of = lambda tree: {x.dtype.name for x in jax.tree.leaves(tree)}
  assert of(planned.base) == {'bfloat16'}
  assert of(planned.state.params) == of(planned.state.ema) == {'float32'}
