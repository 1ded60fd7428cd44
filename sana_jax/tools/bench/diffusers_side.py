"""diffusers' side of a benchmark: the same stage, weights and inputs.

Only its worker process imports torch. Weights are those of `models.tensor`.
"""

from collections.abc import Callable
import contextlib
import math
import os
from typing import Any
import warnings

import diffusers
import numpy as np
import torch
import transformers

from sana_jax.text.prompts import INSTRUCTION_LINES
from sana_jax.tools.bench import models
from sana_jax.tools.bench.jax_side import Stage, text_tokenizer
from sana_jax.tools.bench.request import PARTS, PROMPT, Request

for _library in (diffusers, transformers):
  _library.utils.logging.set_verbosity_error()
  _library.utils.logging.disable_progress_bar()
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def load(
  stage: str, request: Request, compiled: bool = False, drawn: bool = False
) -> Stage:
  """Counterpart of `jax_side.load`; `compiled` uses torch.compile."""
  torch.set_num_threads(os.cpu_count() or 1)
  warnings.simplefilter('ignore')
  part = PARTS[stage]
  model = _build(request.config(part), getattr(torch, request.dtype), drawn)
  if compiled and part == 'vae':  # The pipeline calls its method `decode`.
    model.decoder = torch.compile(model.decoder)
  elif compiled:
    model = torch.compile(model)
  scheduler = diffusers.DPMSolverMultistepScheduler(
    flow_shift=3.0, prediction_type='flow_prediction', use_flow_sigmas=True
  )
  parts = dict.fromkeys(PARTS.values()) | {part: model}
  parts['tokenizer'] = text_tokenizer() if stage == 'text' else None
  pipe = diffusers.SanaPipeline(scheduler=scheduler, **parts)
  pipe.set_progress_bar_config(disable=True)
  return Stage(_waiting(_STAGES[stage](pipe, request)), 0)


def peak_bytes() -> int | None:
  """Peak bytes in use on a GPU; None on a CPU."""
  return torch.cuda.max_memory_allocated() if DEVICE == 'cuda' else None


def _build(config, dtype, drawn):
  """The model, filled tensor by tensor."""
  with torch.device('meta'):
    if config.get('model_type') == 'gemma2':
      model = transformers.Gemma2Model(transformers.Gemma2Config(**config))
    else:
      model = getattr(diffusers, config['_class_name']).from_config(config)
  model = model.to(dtype).to_empty(device=DEVICE)
  for name, x in model.state_dict().items():
    _fill(x, name, drawn)
  if hasattr(model, 'rotary_emb'):  # Its table is not in a state dict.
    model.rotary_emb = type(model.rotary_emb)(model.config).to(DEVICE)
  return model.eval()


def _fill(x, name, drawn):
  """Values drawn on the device, or those of sana_jax's side."""
  if drawn and x.is_floating_point() and x.dim() > 1:
    x.normal_(std=math.prod(x.shape[1:]) ** -0.5)
    return
  kind = np.float32 if x.is_floating_point() else np.int64
  x.copy_(torch.from_numpy(models.tensor(name, tuple(x.shape), kind)))


def _text(pipe, request):
  prompts = [PROMPT] * request.batch
  return lambda: pipe.encode_prompt(
    prompts,
    negative_prompt='',
    device=DEVICE,
    complex_human_instruction=INSTRUCTION_LINES,
  )


def _denoise(pipe, request):
  dtype = getattr(torch, request.dtype)
  b, height, width, channels = request.latent_shape
  size = pipe.transformer.config.caption_channels
  text = lambda n: _normal((n, 300, size), dtype)
  mask = lambda n: torch.ones((n, 300), device=DEVICE)
  return lambda: pipe(
    prompt=None,
    negative_prompt=None,
    prompt_embeds=text(b),
    prompt_attention_mask=mask(b),
    negative_prompt_embeds=text(b),
    negative_prompt_attention_mask=mask(b),
    latents=_normal((b, channels, height, width), torch.float32),
    num_inference_steps=request.steps,
    guidance_scale=request.guidance_scale,
    height=request.height,
    width=request.width,
    output_type='latent',
    use_resolution_binning=False,
  )


def _decode(pipe, request):
  b, height, width, channels = request.latent_shape
  latents = _normal((b, channels, height, width), getattr(torch, request.dtype))
  factor = pipe.vae.config.scaling_factor

  def run():
    (images,) = pipe.vae.decode(latents / factor, return_dict=False)
    images = pipe.image_processor.postprocess(images, output_type='pt')
    return (images * 255).round().to(torch.uint8)

  return run


_STAGES: dict[str, Callable[..., Callable[[], Any]]] = {
  'text': _text,
  'denoise': _denoise,
  'decode': _decode,
}


def _waiting(run):
  def waited():
    with torch.no_grad(), contextlib.redirect_stdout(None):
      out = run()
    if DEVICE == 'cuda':
      torch.cuda.synchronize()
    return out

  return waited


def _normal(shape, dtype):
  values = np.random.default_rng(0).standard_normal(shape, np.float32)
  return torch.from_numpy(values).to(DEVICE, dtype)
