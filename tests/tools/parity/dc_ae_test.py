"""The ledger's quick cases of DC-AE; its weights, configs and golden file."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
pytest.importorskip('torch')

import diffusers  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402

from sana_jax.models.autoencoders.dc_ae import DCAE, SIZES  # noqa: E402
from sana_jax.tools.parity import dc_ae, ledger, references  # noqa: E402
from sana_jax.weights import dc_ae as weights  # noqa: E402
from sana_jax.weights import table  # noqa: E402

_spec = importlib.util.spec_from_file_location(
  'goldens_dc_ae', pathlib.Path(__file__).with_name('goldens_dc_ae.py')
)
goldens = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(goldens)

STRUCTURES = ('sana', 'lite', 'f64', 'several', 'plain')


def fresh_seed():
  return int(np.random.SeedSequence().generate_state(1)[0])


@pytest.mark.parametrize(
  'case', [c for c in dc_ae.cases() if c.quick], ids=lambda c: c.name
)
def test_parity(case):
  seed = fresh_seed()
  record = ledger.measure(case, seed)
  assert record.passed, f'seed {seed}: {record}'


@pytest.mark.parametrize('structure', STRUCTURES)
def test_weights_come_back_byte_for_byte(structure):
  theirs = goldens.randomise(
    dc_ae.make(dc_ae.fields(structure, 8), 0), fresh_seed() >> 1
  )
  _, variables = dc_ae.converted(
    theirs.config, references.weights(theirs), np.float32
  )
  saved = table.save(weights.VARIABLES, variables)
  want = theirs.state_dict()
  assert saved.keys() == want.keys()
  for key, x in want.items():
    np.testing.assert_array_equal(saved[key], x.numpy(), strict=True)


@pytest.mark.parametrize('structure', STRUCTURES)
def test_diffusers_builds_the_model_from_our_config(structure):
  fields = dc_ae.fields(structure, 8)
  theirs = dc_ae.make(fields, 0)
  assert weights.fields_from_diffusers(theirs.config).items() >= fields.items()
  with torch.device('meta'):
    rebuilt = diffusers.AutoencoderDC.from_config(
      weights.diffusers_config(weights.fields_from_diffusers(theirs.config))
    )
  assert rebuilt.config == theirs.config


def test_one_word_in_a_config_is_for_all_stages():
  words = dict(
    encoder_block_types='ResBlock',
    decoder_block_types='ResBlock',
    decoder_norm_types='batch_norm',
    decoder_act_fns='relu',
    encoder_block_out_channels=[8, 16],
    decoder_block_out_channels=[8, 16],
    encoder_layers_per_block=[1, 1],
    decoder_layers_per_block=[1, 1],
    encoder_qkv_multiscales=[[], []],
    decoder_qkv_multiscales=[[], []],
    latent_channels=4,
  )
  theirs = diffusers.AutoencoderDC(**words)
  rebuilt = diffusers.AutoencoderDC.from_config(
    weights.diffusers_config(weights.fields_from_diffusers(theirs.config))
  )
  shapes = lambda model: {k: x.shape for k, x in model.state_dict().items()}
  assert shapes(rebuilt) == shapes(theirs)


@pytest.mark.parametrize('name', SIZES)
def test_published_sizes_have_the_tensors_of_diffusers(name):
  with torch.device('meta'):
    theirs = diffusers.AutoencoderDC.from_config(
      weights.diffusers_config(SIZES[name])
    )
  shapes = dc_ae.shapes(DCAE(**SIZES[name]))
  # Arrays of the right shapes without the memory: all strides are 0.
  tensors = {
    k: np.broadcast_to(
      np.int64(0) if 'num_batches' in k else np.float32(0), tuple(x.shape)
    )
    for k, x in theirs.state_dict().items()
  }
  table.match(weights.VARIABLES, tensors, shapes)
  assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == sum(
    x.numel() for x in theirs.parameters()
  )


def test_the_golden_file_is_what_diffusers_computes():
  tensors = safetensors.torch.load_file(goldens.PATH)
  model = diffusers.AutoencoderDC(**goldens.CONFIG).eval()
  model.load_state_dict(
    {
      k.removeprefix('weights.'): x
      for k, x in tensors.items()
      if k.startswith('weights.')
    }
  )
  for name in goldens.SIZES:
    images = tensors[f'{name}.images'].permute(0, 3, 1, 2)
    got = goldens.compute(model, images)
    for key, x in zip(('latents', 'decoded'), got):
      want = tensors[f'{name}.{key}'].permute(0, 3, 1, 2)
      assert ledger.relative_error(x, want) <= 1e-6
