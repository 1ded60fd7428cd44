"""torch's files are read, and torch reads files written here."""

import argparse
import collections
import pathlib
import random

import numpy as np
import pytest
from same_tensors import assert_same, eager, lazy, to_numpy

from sana_jax.errors import UserError
from sana_jax.weights import pth

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity

DTYPES = (
  'float32',
  'float16',
  'bfloat16',
  'float64',
  'int64',
  'int32',
  'int16',
  'int8',
  'uint8',
  'bool',
)


def views():
  """A tensor of each dtype, and views of each kind."""
  out = {
    name: (torch.randn(4, 3, 2) * 90).to(getattr(torch, name))
    for name in DTYPES
  }
  base = torch.randn(6, 8)
  return out | {
    'base': base,
    'transposed': base.T,
    'columns': base[1:, ::3],
    'row': base[3],
    'channels_last': torch.randn(2, 3, 4, 5).to(
      memory_format=torch.channels_last
    ),
    'scalar': torch.tensor(2.5),
    'empty': torch.zeros(0, 4),
    'permuted': torch.randn(2, 3, 4).permute(2, 0, 1),
    'parameter': torch.nn.Parameter(torch.randn(3)),
  }


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_files_saved_by_torch_are_read(tmp_path, protocol):
  state = collections.OrderedDict(views())
  state._metadata = {'': {'version': 1}}
  torch.save(
    {
      'state_dict': state,
      'epoch': 3,
      'lr': 1e-4,
      'note': None,
      'rng_state': {
        'torch': torch.get_rng_state(),
        'sizes': state['base'].shape,
      },
    },
    tmp_path / 'x.pth',
    pickle_protocol=protocol,
  )
  got = pth.read(tmp_path / 'x.pth')
  assert_same(eager(got), {k: x.detach() for k, x in state.items()})
  for key, tensor in got.items():
    if tensor.shape and tensor.shape[0]:
      np.testing.assert_array_equal(
        tensor.fetch(1, 9), to_numpy(state[key])[1:9], strict=True
      )


def test_a_module_with_its_optimizer_is_read(tmp_path):
  module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
  optimizer = torch.optim.AdamW(module.parameters())
  schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (i + 1))
  module(torch.randn(5, 3)).square().sum().backward()
  optimizer.step()
  schedule.step()
  torch.save(
    {
      'state_dict': module.state_dict(),
      'optimizer': optimizer.state_dict(),
      'scheduler': schedule.state_dict(),
      'state_dict_ema': {k: x * 0 for k, x in module.state_dict().items()},
    },
    tmp_path / 'x.pth',
  )
  assert_same(eager(pth.read(tmp_path / 'x.pth')), module.state_dict())
  averaged = eager(pth.read(tmp_path / 'x.pth', ema=True))
  assert all(not x.any() for x in averaged.values())


def test_a_bare_state_dict_is_read(tmp_path):
  state = torch.nn.Linear(3, 4).state_dict()
  torch.save(state, tmp_path / 'pytorch_model.bin')
  assert_same(eager(pth.read(tmp_path / 'pytorch_model.bin')), state)


def test_written_files_are_read_by_torch(tmp_path):
  state = {key: x.detach() for key, x in views().items()}
  pth.write(tmp_path / 'x.pth', lazy(state))
  content = torch.load(tmp_path / 'x.pth', weights_only=True)
  assert list(content) == ['state_dict']
  assert_same(content['state_dict'], state)
  mapped = torch.load(tmp_path / 'x.pth', weights_only=True, mmap=True)
  assert_same(mapped['state_dict'], state)


def test_the_format_before_1_6_is_read(tmp_path):
  state = {key: x.detach() for key, x in views().items()}
  torch.save(state, tmp_path / 'x.pth', _use_new_zipfile_serialization=False)
  assert_same(eager(pth.read(tmp_path / 'x.pth')), state)


@pytest.mark.parametrize('zipped', [True, False])
def test_all_that_a_trainer_saves_is_read_but_for_the_rest(
  tmp_path, zipped, caplog
):
  module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
  optimizer = torch.optim.AdamW(module.parameters())
  module(torch.randn(5, 3)).square().sum().backward()
  optimizer.step()
  state = module.state_dict()
  torch.save(
    {
      'epoch': 3,
      'args': argparse.Namespace(lr=1e-4, where=pathlib.Path('x')),
      'rng_state': {
        'torch': torch.get_rng_state(),
        'numpy': np.random.get_state(),
        'generator': np.random.default_rng(),
        'python': random.getstate(),
      },
      'optimizer': optimizer.state_dict(),
      'whole': optimizer,
      'dtype': torch.bfloat16,
      'device': torch.device('cpu'),
      'call': len,
      'counts': collections.Counter('abc'),
      'complex': torch.zeros(2) * 1j,
      'array': np.ones((3, 4)),
      'sparse': torch.eye(3).to_sparse(),
      'float8': torch.zeros(2).to(torch.float8_e4m3fn),
      'state_dict_ema': {k: x * 0 for k, x in state.items()},
      'state_dict': state
      | {
        'extra_state': argparse.Namespace(a=1),
        'size': torch.Size([3, 4]),
        'complex': torch.zeros(2) * 1j,
      },
    },
    tmp_path / 'x.pth',
    _use_new_zipfile_serialization=zipped,
  )
  assert_same(eager(pth.read(tmp_path / 'x.pth')), state)
  (record,) = caplog.records
  line = record.getMessage()
  assert 'args (argparse.Namespace)' in line and '_reconstruct' in line
  averaged = eager(pth.read(tmp_path / 'x.pth', ema=True))
  assert all(not x.any() for x in averaged.values())


def test_a_whole_module_is_refused_by_name(tmp_path):
  torch.save(torch.nn.Linear(3, 4), tmp_path / 'x.pth')
  with pytest.raises(UserError, match=r'torch\.nn\.modules\.linear\.Linear'):
    pth.read(tmp_path / 'x.pth')
