"""Files with the prefixes of trainers and interfaces convert like others."""

import json
import pathlib

import pytest

from sana_jax.weights import exchange, pth, safetensors_files

pytestmark = pytest.mark.fast

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/tiny_sana'
WRITERS = {'.pth': pth.write, '.safetensors': safetensors_files.write_file}


def bits(source):
  """Name, shape, dtype and bytes of every tensor of every part."""
  return {
    (part, name): (x.shape, x.dtype, x.read().tobytes())
    for part, model in source.parts.items()
    for name, x in model.tensors.items()
  }


@pytest.fixture(scope='module', params=['transformer', 'vae'])
def golden(request, tmp_path_factory):
  """A part, its bits, its tensors by official names, and its config."""
  part = request.param
  file = tmp_path_factory.mktemp('official') / 'x.pth'
  source = exchange.open_source(str(GOLDEN / part))
  exchange.write(source, file, 'official')
  config = json.loads((GOLDEN / part / 'config.json').read_text())
  return part, bits(source), pth.read(file), {part: config}


@pytest.mark.long
@pytest.mark.parametrize(
  'prefix, suffix',
  [
    ('module.', '.pth'),
    ('_orig_mod.module.', '.safetensors'),
    ('model.', '.pth'),
    ('model.diffusion_model.', '.safetensors'),
  ],
)
def test_a_prefix_of_all_names_changes_no_tensor(
  golden, prefix, suffix, tmp_path
):
  part, want, tensors, configs = golden
  assert not any(name.startswith(prefix) for name in tensors)
  file = tmp_path / f'prefixed{suffix}'
  WRITERS[suffix](file, {prefix + name: x for name, x in tensors.items()})
  found = exchange.open_source(str(file), configs=configs)
  assert found.parts.keys() == {part}
  assert bits(found) == want
