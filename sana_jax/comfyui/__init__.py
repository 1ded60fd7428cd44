"""Nodes for ComfyUI: this folder, linked or copied into its `custom_nodes`.

ComfyUI loads the folder under a name of its own, maybe in an environment
without sana_jax and JAX: imports within the folder are relative, and only the
nodes that load a model import sana_jax, when they run. See docs/comfyui.md.
"""

from .library import LoadPipeline, Sample
from .server import SampleByServer
from .tuning import ControlImage, LoadControlNet, LoadLora, ServerLora

NODE_CLASS_MAPPINGS = {
  'SanaJaxLoad': LoadPipeline,
  'SanaJaxSample': Sample,
  'SanaJaxServer': SampleByServer,
  'SanaJaxLora': LoadLora,
  'SanaJaxControlNet': LoadControlNet,
  'SanaJaxControl': ControlImage,
  'SanaJaxServerLora': ServerLora,
}
NODE_DISPLAY_NAME_MAPPINGS = {
  'SanaJaxLoad': 'Load SANA (JAX)',
  'SanaJaxSample': 'Sample SANA (JAX)',
  'SanaJaxServer': 'Sample SANA by a demo server (JAX)',
  'SanaJaxLora': 'Load LoRA for SANA (JAX)',
  'SanaJaxControlNet': 'Load ControlNet for SANA (JAX)',
  'SanaJaxControl': 'Control image for SANA (JAX)',
  'SanaJaxServerLora': 'LoRA of a demo server for SANA (JAX)',
}
__all__ = ['NODE_CLASS_MAPPINGS', 'NODE_DISPLAY_NAME_MAPPINGS']
