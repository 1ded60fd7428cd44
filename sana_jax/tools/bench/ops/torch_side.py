"""Ops in PyTorch as in diffusers, eager and compiled.

Only its own process imports torch.
"""

import math
import os
import time

import torch
from torch.nn import functional as F

from sana_jax.analysis.device import SECONDS
from sana_jax.tools.bench.ops.cases import Case

BACKENDS = ('torch', 'torch-compile')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


class TorchSide:
  """Holds the case under measurement."""

  def __init__(self):
    torch.set_num_threads(os.cpu_count() or 1)
    self._runs = {}

  def begin(self, case: Case, training: bool) -> list[str]:
    """Prepares both forms; returns the names of those that run."""
    torch.compiler.reset()
    self._runs = {}
    for name in BACKENDS:
      f = _OPS[case.op]
      f = torch.compile(f, dynamic=False) if name == 'torch-compile' else f
      try:
        run = _program(f, case, training)
        self._runs[name] = run, _calls(run)
      except torch._dynamo.exc.BackendCompilerFailed:
        continue  # On a CPU it needs a C++ compiler.
    return list(self._runs)

  def seconds(self, name: str) -> float:
    """Mean seconds of a call."""
    run, count = self._runs[name]
    start = time.perf_counter()
    for _ in range(count):
      run()
    _wait()
    return (time.perf_counter() - start) / count

  def end(self) -> None:
    """Frees memory."""
    self._runs = {}
    if DEVICE == 'cuda':
      torch.cuda.empty_cache()


def _program(f, case, training):
  *inputs, dout = (
    torch.randn(shape, device=DEVICE, dtype=getattr(torch, case.dtype))
    for shape in case.flat_shapes()
  )
  if case.op == 'relu_linear_attention':
    b, n, h, d = case.shape
    inputs = [x.view(b, n, h, d) for x in inputs]
    dout = dout.view(b, n, h, d)
  elif case.op == 'glumb_conv':
    inputs[1] = inputs[1].permute(2, 0, 1)[:, None].contiguous()
  else:
    kernel = inputs[1].permute(3, 2, 0, 1)
    inputs[1] = kernel.contiguous(memory_format=torch.channels_last)
  if not training:

    def forward():
      with torch.no_grad():
        return f(*inputs)

    return forward
  inputs = [x.requires_grad_() for x in inputs]
  return lambda: torch.autograd.grad(f(*inputs), inputs, dout)


def _attention(q, k, v):
  """Linear attention [b n h d], summed in float32 as in diffusers."""
  dtype = v.dtype
  q, k, v = (x.permute(0, 2, 3, 1) for x in (q, k, v))  # b h d n
  q, k, v = F.relu(q).float(), F.relu(k).float(), v.float()
  state = F.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(-1, -2)
  out = state @ q
  out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
  return out.permute(0, 3, 1, 2).to(dtype)


def _gate(x, kernel, bias):
  """Gate of [b y x 2c], channels last as after a 1x1 convolution."""
  y = F.silu(x.permute(0, 3, 1, 2))
  y = F.conv2d(y, kernel, bias, padding=1, groups=y.shape[1])
  y, gate = y.chunk(2, dim=1)
  return (y * F.silu(gate)).permute(0, 2, 3, 1)


def _conv3x3(x, kernel, bias=None):
  """Convolution of [b y x c], channels last."""
  y = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, padding=1)
  return y.permute(0, 2, 3, 1)


def _conv3x3_silu(x, kernel, bias):
  return F.silu(_conv3x3(x, kernel, bias))


def _conv3x3_norm(x, kernel, scale, shift, residual):
  """Convolution, RMSNorm as in diffusers (float32 mean of squares only)."""
  y = _conv3x3(x, kernel)
  rms = torch.rsqrt(y.float().pow(2).mean(-1, keepdim=True) + 1e-5)
  return residual + (y * rms).to(y.dtype) * scale + shift


_OPS = {
  'relu_linear_attention': _attention,
  'glumb_conv': _gate,
  'conv3x3_silu': _conv3x3_silu,
  'conv3x3_norm': _conv3x3_norm,
}


def _calls(run):
  """Number of calls that fill the time of a measurement."""
  run()
  _wait()
  start = time.perf_counter()
  run()
  _wait()
  return max(1, math.ceil(SECONDS / (time.perf_counter() - start)))


def _wait():
  if DEVICE == 'cuda':
    torch.cuda.synchronize()
