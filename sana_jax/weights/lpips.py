"""LPIPS from its two published torch files.

vgg16*.pth  torchvision's VGG16 (vgg16-397923af.pth); the classifier is unused
vgg.pth     the five linear layers of lpips 0.1 (lpips/weights/v0.1/vgg.pth)
"""

import pathlib

import jax

from sana_jax.errors import UserError
from sana_jax.models import lpips
from sana_jax.paths import expanded
from sana_jax.typing import Params
from sana_jax.weights import pth, table
from sana_jax.weights.table import Rule
from sana_jax.weights.transforms import CONV, Transform

_FILES = ('vgg16*.pth', 'vgg.pth')
_HEAD = Transform(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])


def _rules():
  """Rules of torchvision's Sequential: two layers a convolution, one a pool."""
  rules, layer = [], 0
  for s, channels in enumerate(lpips.STAGES):
    for i in range(len(channels)):
      path = f'vgg/conv{s + 1}_{i + 1}'
      rules += [
        Rule(f'features.{layer}.weight', f'{path}/kernel', CONV),
        Rule(f'features.{layer}.bias', f'{path}/bias'),
      ]
      layer += 2
    layer += 1
    rules.append(Rule(f'lin{s}.model.1.weight', f'weight{s + 1}', _HEAD))
  return rules


RULES = tuple(_rules())


def load(folder: pathlib.Path | str) -> Params:
  """Parameters of `LPIPS` as host arrays; UserError for other files."""
  folder, tensors = pathlib.Path(expanded(folder)), {}
  for pattern in _FILES:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
      raise UserError(
        f'config.loss.lpips_weights={str(folder)!r} must be a folder with one '
        f'{pattern} (it has {len(found)}), of {" and ".join(_FILES)}: '
        "torchvision's VGG16 and the linear layers of lpips 0.1.",
        key='loss.lpips_weights',
        value=str(folder),
        allowed=(pattern,),
      )
    tensors |= pth.read(found[0])
  tensors = {
    key: x for key, x in tensors.items() if not key.startswith('classifier.')
  }
  shapes = jax.eval_shape(lpips.init, jax.random.key(0))
  try:
    return table.load(RULES, tensors, shapes)
  except table.WeightError as e:
    raise table.WeightError(f'{folder}: {e}', value=e.value) from e
