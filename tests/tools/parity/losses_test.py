"""LPIPS and the PatchGAN against PyTorch definitions written here.

Neither `lpips` nor torchvision is needed: there are few layers, stored under
the names of the published files.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from sana_jax.errors import UserError  # noqa: E402
from sana_jax.models.lpips import LPIPS  # noqa: E402
from sana_jax.models.patchgan import PatchGAN  # noqa: E402
from sana_jax.tools.parity.ledger import MODULE, relative_error  # noqa: E402
from sana_jax.weights import lpips  # noqa: E402

# Channels, and 'M' for a pooling: torchvision's layout of VGG16.
VGG = (
  64,
  64,
  'M',
  128,
  128,
  'M',
  256,
  256,
  256,
  'M',
  512,
  512,
  512,
  'M',
  512,
  512,
  512,
  'M',
)
TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.


@pytest.fixture(scope='module')
def vgg():
  torch.manual_seed(0)
  layers, channels = [], 3
  for width in VGG:
    if width == 'M':
      layers.append(nn.MaxPool2d(2, 2))
      continue
    layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    nn.init.kaiming_normal_(layers[-2].weight)
    nn.init.normal_(layers[-2].bias, std=0.2)
    channels = width
  return nn.Sequential(*layers)


@pytest.fixture(scope='module')
def heads():
  return [torch.rand(1, n, 1, 1) for n in (64, 128, 256, 512, 512)]


@pytest.fixture(scope='module')
def pair():
  rng = np.random.default_rng(0)
  return [
    rng.uniform(-1, 1, (2, 48, 32, 3)).astype(np.float32) for _ in range(2)
  ]


def channels_first(x):
  return torch.from_numpy(x).permute(0, 3, 1, 2)


def their_distance(vgg, heads, x, y):
  shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
  scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

  def features(x):
    x, found = (x - shift) / scale, []
    for i, layer in enumerate(vgg):
      x = layer(x)
      if i in TAPS:
        found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
    return found

  return sum(
    (head * (a - b) ** 2).sum(1).mean((1, 2))
    for head, a, b in zip(heads, features(x), features(y))
  )


@pytest.fixture(scope='module', params=[True, False], ids=['zip', 'before 1.6'])
def folder(request, tmp_path_factory, vgg, heads):
  """The two published files, with a classifier that is not needed."""
  path = tmp_path_factory.mktemp('lpips')
  save = lambda tensors, name: torch.save(
    tensors, path / name, _use_new_zipfile_serialization=request.param
  )
  save(
    {
      **{f'features.{k}': v for k, v in vgg.state_dict().items()},
      'classifier.0.weight': torch.zeros(4, 2),
    },
    'vgg16-397923af.pth',
  )
  save({f'lin{i}.model.1.weight': x for i, x in enumerate(heads)}, 'vgg.pth')
  return path


def test_lpips_and_its_gradient(vgg, heads, pair, folder):
  params = lpips.load(folder)
  x, y = pair
  theirs = channels_first(y).requires_grad_()
  want = their_distance(vgg, heads, channels_first(x), theirs)
  want.sum().backward()

  @jax.jit
  def ours(y):
    distance = LPIPS().apply({'params': params}, jnp.asarray(x), y)
    return distance.sum(), distance

  (_, got), gradient = jax.value_and_grad(ours, has_aux=True)(y)
  assert relative_error(got, want.detach()) <= MODULE
  # If rounding flips a ReLU or a max pooling, all earlier pixels are affected:
  # 3e-3 was measured; a fault shows as 1.
  assert relative_error(gradient, theirs.grad.permute(0, 2, 3, 1)) <= 2e-2


def test_invalid_files_are_reported(folder, tmp_path):
  with pytest.raises(UserError) as error:
    lpips.load(tmp_path)
  assert error.value.key == 'loss.lpips_weights'
  assert error.value.value == str(tmp_path)
  assert 'vgg16' in error.value.allowed[0] and '0' in str(error.value)
  (tmp_path / 'vgg16.pth').write_bytes((folder / 'vgg.pth').read_bytes())
  (tmp_path / 'vgg.pth').write_bytes((folder / 'vgg.pth').read_bytes())
  with pytest.raises(UserError) as error:
    lpips.load(tmp_path)
  assert 'vgg/conv1_1/kernel' in [p.split()[0] for p in error.value.value]


def test_the_discriminator(pair):
  torch.manual_seed(1)
  conv = lambda a, b, stride, bias: nn.Conv2d(
    a, b, 4, stride=stride, padding=1, bias=bias
  )
  theirs = nn.Sequential(
    conv(3, 64, 2, True),
    nn.LeakyReLU(0.2),
    conv(64, 128, 2, False),
    nn.InstanceNorm2d(128),
    nn.LeakyReLU(0.2),
    conv(128, 256, 2, False),
    nn.InstanceNorm2d(256),
    nn.LeakyReLU(0.2),
    conv(256, 512, 1, False),
    nn.InstanceNorm2d(512),
    nn.LeakyReLU(0.2),
    conv(512, 1, 1, True),
  )
  names = ['conv_0', 'conv_1', 'conv_2', 'conv_3', 'conv_out']
  params = {}
  for name, layer in zip(
    names, (x for x in theirs if isinstance(x, nn.Conv2d)), strict=True
  ):
    params[name] = {
      'kernel': layer.weight.detach().numpy().transpose(2, 3, 1, 0)
    }
    if layer.bias is not None:
      params[name]['bias'] = layer.bias.detach().numpy()
  got = jax.jit(PatchGAN().apply)({'params': params}, pair[0])
  want = theirs(channels_first(pair[0])).detach()[:, 0]
  assert got.shape == (2, 4, 2)
  assert relative_error(got, want) <= MODULE
