r"""A ControlNet of SANA 1.6B at 1024 px, for HED scribbles.

  sana-jax train --config configs/sana_controlnet_1600m_1024.py \
    --workdir gs://RUNS/control_1600m --layout fsdp \
    --config.inputs.cache=gs://DATA/1024

The frozen base is the published model, unless --config.init_from names another.
Control images are made of the images by the annotator, and their latents are
cached in the workdir; `--config.controlnet.annotator=files
--config.controlnet.path=DIR` reads them instead. Seven blocks, CAME at 1e-4 and
flow shift 3 are those of the released yaml; NVIDIA's training script is
not public, and the number of steps and the batch are ours. The official wiring
is that of the published nets; `--config.controlnet.wiring=diffusers` trains one
for diffusers. Predicted,
not run: 2.0 hours on 16 H200 at 40 % of their bf16 peak, without
the encoding of the images.

:runlocal  two steps of a tiny one on `shapes` and a CPU, seconds.
"""

from sana_jax import recipes


def get_config(arg=''):
  config = recipes.controlnet('sana_1600m_1024')
  config.flow.shift = 3.0
  config.sampling.shift = 3.0
  return recipes.variant(config, arg)
