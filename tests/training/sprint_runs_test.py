"""A distillation is the same run on any devices, and after any interruption."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import sana_jax

TOY = pathlib.Path(__file__).with_name('sprint_toy.py')
TURNS = {'weight': 0.5, 'turns': 'alternate'}
BOTH = {'weight': 0.5, 'turns': 'both', 'loss': 'cross_entropy', 'r1': 0.01}
# XLA aborts if one of eight devices is late, on two busy cores: those are slow.
LAYOUTS = (
  pytest.param({'fsdp': 2, 'tensor': 2}, marks=pytest.mark.long),
  *(
    pytest.param(mesh, marks=pytest.mark.slow)
    for mesh in (
      {'fsdp': 2, 'tensor': 2, 'sequence': 2},
      {'data': 8},
      {'fsdp': 8},
      {'fsdp': 4, 'tensor': 2},
      {'data': 2, 'fsdp': 2, 'sequence': 2},
    )
  ),
)


@pytest.fixture(scope='module')
def sprint_toy():
  import sprint_toy

  return sprint_toy


def curves(toy, sprint_toy, mesh, kinds=({}, {}), steps=20):
  """Losses and gradient norms of a run, and its last parameters."""
  ladd, settings = kinds
  size = int(np.prod([*mesh.values()]))
  made = SimpleNamespace(make=lambda: sprint_toy.task(ladd, **settings))
  found = toy.steps(
    made,
    jax.devices()[:size],
    mesh=mesh,
    num_steps=steps,
    **sprint_toy.optimizers(),
  )
  of = lambda metrics: (metrics['loss'], metrics['grad_norm'])
  return np.array([of(m) for _, m in found]), found[-1][0]


KINDS = {
  'turns': (TURNS, {}),
  'both': (BOTH, {}),
  'discrete': ({}, {'loss': 'discrete', 'target_decay': 0.9}),
}


@pytest.fixture(scope='module')
def alone(toy, sprint_toy):
  """Curves on one device, by kind."""
  made = {}

  def of(kind):
    if kind not in made:
      made[kind] = curves(toy, sprint_toy, {'data': 1}, KINDS[kind])
    return made[kind]

  return of


@pytest.mark.parametrize('mesh', LAYOUTS, ids=str)
@pytest.mark.parametrize(
  'kind',
  [
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('turns', 'both')),
    'discrete',
  ],
)
def test_twenty_steps_in_every_layout_are_those_of_one_device(
  toy, sprint_toy, alone, kind, mesh
):
  got, state = curves(toy, sprint_toy, mesh, KINDS[kind])
  want, other = alone(kind)
  np.testing.assert_allclose(got[:, 0], want[:, 0], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(got[:, 1], want[:, 1], rtol=1e-2)
  for a, b in zip(*map(jax.tree.leaves, (state.extra, other.extra))):
    # Adam's first steps have the sign of gradients that are nearly zero.
    np.testing.assert_allclose(a, b, atol=2e-2)


def start(workdir, steps=11, **settings):
  """A training process; it saves after turns of each player."""
  root = pathlib.Path(sana_jax.__file__).parents[1]
  settings = {
    'ladd': TURNS,
    'num_steps': steps,
    'batch_size': 8,
    'checkpoint_every_steps': 3,
    'log_every_steps': 1,
    'mesh': {'data': -1},
    **settings,
  }
  return subprocess.Popen(
    [
      sys.executable,
      TOY,
      workdir,
      *(f'{key}={json.dumps(x)}' for key, x in settings.items()),
    ],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)},
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(*running):
  try:
    logs = [p.communicate(timeout=300)[1] for p in running]
  finally:
    for process in running:
      process.kill()
  assert [p.returncode for p in running] == [0] * len(running), logs
  return logs


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.splitlines()[: text.count('\n')]]


def kill_after(step, workdir):
  process = start(workdir)
  while process.poll() is None and len(lines(workdir)) < step:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  log = process.communicate()[1]
  assert process.returncode == -signal.SIGKILL, log


@pytest.mark.slow
def test_killed_in_either_players_turn_it_ends_with_the_same_bits(tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  finish(start(whole))
  kill_after(4, cut)  # The next turn is the student's, ...
  kill_after(7, cut)  # ... and the discriminator's; 3 and 6 are saved.
  (log,) = finish(start(cut))
  assert 'from step 0' not in log
  about = lambda workdir: json.loads(
    (workdir / 'checkpoints/11/about/metadata').read_text()
  )
  assert about(cut) == about(whole)
  names = about(whole)['leaves']
  assert any(name.startswith('params.discriminator') for name in names)
  assert any(name.startswith('extra.spectral') for name in names)
  models = [np.load(w / 'model/model.npz') for w in (whole, cut)]
  assert models[0].files == models[1].files
  for name in models[0].files:
    np.testing.assert_array_equal(models[0][name], models[1][name])
    assert 'discriminator' not in name and 'spectral' not in name


@pytest.mark.slow
def test_two_processes_distil_as_one_does(tmp_path):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  two, one = tmp_path / 'two', tmp_path / 'one'
  mesh = {'data': 2, 'fsdp': 2}
  finish(
    *(start(two, 20, mesh=mesh, process=[address, 2, i]) for i in range(2))
  )
  finish(start(one, 20, mesh=mesh, devices=4))
  losses = [[line['loss'] for line in lines(w)] for w in (two, one)]
  assert len(losses[0]) == 20
  np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_the_metrics_of_both_players_are_on_each_line(
  toy, sprint_toy, tmp_path
):
  toy.run(
    tmp_path,
    sprint_toy.task(TURNS),
    mesh={'data': 1},
    devices=jax.devices()[:1],
    num_steps=4,
    batch_size=4,
    **sprint_toy.optimizers(),
  )
  for line in lines(tmp_path):
    assert {
      'loss/model',
      'loss/discriminator',
      'grad_norm/model',
      'grad_norm/discriminator',
      'tangent_norm',
      'jvp_norm',
    } <= set(line)


@pytest.mark.long
def test_another_teacher_is_refused_by_name(toy, sprint_toy, tmp_path):
  # Covered for all models by frozen_models_test; here for the loop.
  made = sprint_toy.task()
  run = lambda task, steps: toy.run(
    tmp_path,
    task,
    mesh={'data': 1},
    devices=jax.devices()[:1],
    num_steps=steps,
    batch_size=4,
    **sprint_toy.optimizers(),
  )
  import dataclasses

  from sana_jax.errors import UserError

  named = lambda task, name: dataclasses.replace(
    task, models={'teacher': ('sprint.teacher', name)}
  )
  run(named(made, 'first'), 2)
  other = jax.tree.map(lambda x: x * 1.5, made.frozen['teacher'])
  changed = dataclasses.replace(made, frozen={**made.frozen, 'teacher': other})
  with pytest.raises(UserError) as e:
    run(named(changed, 'second'), 3)
  assert e.value.key == 'sprint.teacher' and e.value.allowed == ('first',)
