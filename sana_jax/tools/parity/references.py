"""Runs the references: PyTorch models with random values, and their parts.

A run of the whole reference records the calls of its parts; sana_jax's parts
then get the same inputs. All values come from the seed. Only case modules
import this: it needs torch.
"""

from collections.abc import Callable, Iterable, Mapping
import copy
import functools
import os
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from sana_jax.tools.parity import ledger
from sana_jax.typing import Array, DType, PyTree
from sana_jax.weights.tensors import Stored, stored

torch.set_num_threads(min(2, os.cpu_count() or 1))


class Call(NamedTuple):
  """Inputs and output of a part of a reference."""

  module: torch.nn.Module
  args: tuple
  kwargs: dict[str, Any]
  output: Any

  def tensors(self, dtype: DType = np.float32) -> list[np.ndarray]:
    """Input tensors in order, floating ones in `dtype`."""
    given = (*self.args, *self.kwargs.values())
    return [as_array(x, dtype) for x in given if isinstance(x, torch.Tensor)]

  def in_bfloat16(self) -> Any:
    """Output of the reference's part, all in bfloat16."""
    module = copy.deepcopy(self.module).bfloat16()
    with torch.no_grad():
      return module(
        *_halved(self.args), **{k: _halved(x) for k, x in self.kwargs.items()}
      )


def _halved(x):
  """Casts floating tensors, also in tuples, to bfloat16, with finite masks."""
  if isinstance(x, tuple):
    return tuple(map(_halved, x))
  if isinstance(x, torch.Tensor) and x.is_floating_point():
    return x.clamp(min=torch.finfo(torch.bfloat16).min).bfloat16()
  return x


def as_array(x: torch.Tensor, dtype: DType = np.float32) -> np.ndarray:
  """A tensor as a NumPy array; floating ones in `dtype`."""
  if not x.is_floating_point():
    return x.detach().numpy()
  return x.detach().float().numpy().astype(dtype)


def channels_last(x: np.ndarray | Array) -> np.ndarray:
  """[b c y x] -> [b y x c]."""
  return np.ascontiguousarray(np.asarray(x).transpose(0, 2, 3, 1))


def channels_first(x: np.ndarray | Array) -> np.ndarray:
  """[b y x c] -> [b c y x]."""
  return np.asarray(x).transpose(0, 3, 1, 2)


def weights(model: torch.nn.Module) -> dict[str, Stored]:
  """The state dict in the form of the file readers, without copies."""
  return {k: stored(x.detach().numpy()) for k, x in model.state_dict().items()}


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Fills parameters with normal values, and sets evaluation mode.

  Deviations are 1/sqrt(fan in) for matrices, which keeps the scale of
  activations and so does not amplify rounding, and 0.5 for others, so that
  biases and norms matter.
  """
  for p in model.parameters():
    p.normal_(std=0.5 if p.ndim < 2 else p[0].numel() ** -0.5)
  return model.eval()


def worst_error(got: PyTree, want: PyTree) -> float:
  """Largest relative error of two trees' arrays."""
  return max(
    jax.tree.leaves(
      jax.tree.map(
        lambda g, w: ledger.relative_error(g, np.asarray(w)), got, want
      )
    )
  )


def record(
  model: torch.nn.Module, names: Iterable[str], run: Callable[[], Any]
) -> dict[str, Call]:
  """Last call of each named part of the model during `run`."""
  calls = {}

  def recorder(name):
    def hook(module, args, kwargs, output):
      calls[name] = Call(module, args, kwargs, output)

    return hook

  handles = [
    model.get_submodule(name).register_forward_hook(
      recorder(name), with_kwargs=True
    )
    for name in names
  ]
  try:
    with torch.no_grad():
      run()
  finally:
    for handle in handles:
      handle.remove()
  return calls


def compare(
  area: str,
  dtype: DType,
  make: Callable[[], torch.nn.Module],
  theirs: Callable[[torch.nn.Module], np.ndarray],
  ours: Callable[[Mapping[str, Stored]], Callable[[], Array]],
  halve: Callable[[torch.nn.Module], Any] = torch.nn.Module.bfloat16,
) -> float | ledger.Measured:
  """Error of a whole model; the reference is freed before sana_jax's runs.

  Args:
    make: makes the reference in float32.
    theirs: runs the reference, in its current dtype.
    ours: takes its weights, and returns a function that runs sana_jax's model.
    halve: casts the reference to bfloat16.
  """
  model = make()
  with torch.no_grad():
    want = theirs(model)
    run = ours(weights(model))
    half = None
    if dtype == jnp.bfloat16:
      halve(model)
      half = theirs(model)
  del model
  got = run()
  if half is None:
    return ledger.relative_error(got, want)
  return ledger.bfloat16(area, got, half, want)


def apply(
  module: nn.Module,
  variables: PyTree,
  *args: Any,
  method: str | Callable = '__call__',
) -> Any:
  """One compiled call, with float32 matmuls on every device."""
  with jax.default_matmul_precision('float32'):
    return _compiled(module, method)(variables, *args)


@functools.lru_cache(maxsize=8)
def _compiled(module, method):
  """Compiled program, cached for other weights."""
  return jax.jit(functools.partial(module.apply, method=method))
