"""docs/extending.md: each example is complete and works as documented."""

import pathlib
import re
import sys

import jax.numpy as jnp
import numpy as np
import pages
import pytest

from sana_jax import config
from sana_jax.diffusion import samplers
from sana_jax.kernels.linear_attention import relu_linear_attention
from sana_jax.weights import kinds

pytestmark = pytest.mark.docs

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'extending.md'
SECTIONS = dict(
  re.findall(
    r'^## A (\w+)\n(.*?)(?=^## |\Z)', PAGE.read_text(), re.DOTALL | re.MULTILINE
  )
)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """Runs a section of the page; the sections build on those before."""
  names, done = {}, []

  def run(section):
    for name in list(SECTIONS)[len(done) : list(SECTIONS).index(section) + 1]:
      done.append(name)
      for block in re.findall(
        r'```python\n(.*?)```', SECTIONS[name], re.DOTALL
      ):
        exec(compile(block, f'{PAGE}, {name}', 'exec'), names)
    return names

  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path_factory.mktemp('extending'))
    yield run
  kinds._REGISTRY.pop('PatchAutoencoder', None)
  forget('stochastic-euler')
  relu_linear_attention.kernels.pop('mine', None)
  sys.modules.pop('mine', None)


def forget(name):
  if samplers._SAMPLERS.pop(name, None):
    samplers.NAMES.remove(name)


def test_an_autoencoder_of_another_package_is_read_and_drawn_with(page):
  names = page('model')
  assert names['pictures'].shape == (1, 64, 64, 3)
  # The weights went through the file.
  images = jnp.linspace(-1, 1, 48).reshape(1, 4, 4, 3)
  module, variables = names['autoencoder']
  assert module == names['module']
  np.testing.assert_array_equal(
    module.apply(variables, images),
    names['module'].apply(names['variables'], images),
  )


def test_a_sampler_of_another_package_draws_by_name(page):
  names = page('sampler')
  assert names['pictures'].shape == (1, 64, 64, 3)
  assert samplers.make('stochastic-euler') == names['StochasticEuler']()
  chosen = config.train('sana')
  chosen.sampling.sampler = 'stochastic-euler'
  config.check(chosen)
  # Without fresh noise, it takes Euler's steps, as DPM-Solver++ of order 1.
  draw = lambda sampler: names['pipe'](
    'a red circle',
    height=64,
    width=64,
    steps=3,
    sampler=sampler,
    output_type='latent',
  )
  samplers.register('still', names['StochasticEuler'](share=0.0))
  try:
    np.testing.assert_allclose(draw('still'), draw('dpm++1m'), atol=1e-4)
  finally:
    forget('still')


def test_a_backend_of_another_package_runs_where_it_is_named(page):
  names = page('kernel')
  x = jnp.ones((1, 4, 2, 8))
  np.testing.assert_array_equal(
    relu_linear_attention(x, x, x, implementation='mine'),
    relu_linear_attention(x, x, x, implementation='xla'),
  )
  with pytest.raises(names['kernels'].UnsupportedError, match='wider'):
    wide = jnp.ones((1, 4, 2, 256))
    relu_linear_attention(wide, wide, wide, implementation='mine')
  chosen = config.train('sana')
  chosen.kernels.relu_linear_attention = 'mine'
  config.check(chosen)


def test_a_layout_in_a_file_is_planned(page, page_shell):
  page('layout')
  folder = pathlib.Path('shell').absolute()
  folder.mkdir()
  pathlib.Path('wide.py').rename(folder / 'wide.py')
  (printed,) = page_shell(pages.commands(SECTIONS['layout']), folder)
  assert 'fsdp=4 tensor=4' in printed


@pytest.mark.parametrize(
  'register',
  [
    lambda: samplers.register('euler', samplers.DpmSolver()),
    lambda: relu_linear_attention.register('xla', 'other:function'),
    lambda: relu_linear_attention.register('mosaic_tpu', 'other:function'),
  ],
)
def test_a_name_that_is_taken_is_refused(register):
  with pytest.raises(ValueError, match='choose another name'):
    register()
