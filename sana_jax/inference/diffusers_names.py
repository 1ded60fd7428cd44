"""Names of diffusers' SanaPipeline, accepted or answered with ours."""

from collections.abc import Collection, Mapping
import difflib
from typing import Any

from sana_jax import fields
from sana_jax.diffusion.time_grids import NOISE_ANGLE, scm_times
from sana_jax.errors import UserError

_RENAMED = {
  'prompt': 'prompts',
  'num_inference_steps': 'steps',
  'num_images_per_prompt': 'num_images',
  'complex_human_instruction': 'instruction',
  'timesteps': 'times',
  'mask_image': 'mask',
}
# Angles of SanaSprintPipeline, of which `times` are made.
_ANGLES = {'max_timesteps': 'noise', 'intermediate_timesteps': 'middle'}
_ANGLE = fields.number(1e-3, NOISE_ANGLE)
# Arguments of SanaControlNetPipeline and others, of which `control` is made.
_CONTROL = {
  'controlnet_conditioning_scale': 'scale',
  'control_guidance_start': 'start',
  'control_guidance_end': 'end',
}
# Arguments of which one value is what happens here anyway.
_FIXED = {
  'return_dict': True,
  'clean_caption': False,
  'max_sequence_length': 300,
}
_EMBEDDINGS = (
  'embeddings are made by pipe.encode_prompts(...) and given to '
  'pipe.denoise(...)'
)
_INSTEAD = {
  'generator': 'give seed=0, or one seed for each prompt',
  'callback_on_step_end': 'give on_step, a function of the steps done',
  'callback_on_step_end_tensor_inputs': 'give on_step',
  'prompt_embeds': _EMBEDDINGS,
  'prompt_attention_mask': _EMBEDDINGS,
  'negative_prompt_embeds': _EMBEDDINGS,
  'negative_prompt_attention_mask': _EMBEDDINGS,
  'sigmas': 'give steps and flow_shift',
  'eta': 'no sampler here has it',
  'attention_kwargs': 'give the weights of adapters to pipe.set_adapters',
}
_ATTRIBUTES = {
  'to': 'devices are chosen by from_pretrained(..., mesh=...), the dtype by '
  'dtype=...',
  'vae': 'its name here is autoencoder',
  'enable_vae_tiling': "give parts='tiles', or parts='strips' for the same "
  'picture, to the call',
  'enable_model_cpu_offload': 'arrays stay on the devices of the mesh',
  'set_progress_bar_config': 'give on_step to the call',
  'load_lora_weights': 'pipe.load_lora(path, weight=...) returns the pipeline '
  'with it',
  'unload_lora_weights': 'pipe.set_adapters([]) returns the pipeline without',
  'disable_lora': 'pipe.set_adapters([]) returns the pipeline without',
  'scheduler': 'give sampler and flow_shift to the call',
}


def arguments(
  given: Mapping[str, Any], ours: Collection[str]
) -> dict[str, Any]:
  """Arguments of a call by our names.

  Raises UserError for an argument that neither has, or that only diffusers has.
  """
  found, angles, control = {}, {}, {}
  for name, value in given.items():
    own = _RENAMED.get(name, name)
    if name in _FIXED:
      _check_fixed(name, value)
    elif name in _ANGLES:
      angles[name] = value
    elif name in _CONTROL:
      control[_CONTROL[name]] = value
    elif own not in ours:
      raise _unknown(name, ours)
    elif own in found:
      raise UserError(f'{own} and {name} are the same; give one.', key=own)
    else:
      found[own] = value
  if control:
    found['control'] = {**(found.get('control') or {}), **control}
  return found | _times(angles, found)


def _times(angles, found):
  """`times` of the angles of SanaSprintPipeline that are given."""
  angles = {k: fields.plain(v) for k, v in angles.items() if v is not None}
  if not angles:
    return {}
  if 'times' in found:
    raise UserError(
      f'times and {next(iter(angles))} are given; give one of the two.',
      key='times',
    )
  fields.check('The call', angles, dict.fromkeys(angles, _ANGLE))
  steps = found.get('steps') or 2
  fields.check('The call', {'steps': steps}, {'steps': fields.integer(1, 1000)})
  return {
    'times': scm_times(steps, **{_ANGLES[k]: v for k, v in angles.items()})
  }


def output_type(value: Any) -> Any:
  """Our name of an output type."""
  return 'float' if value == 'np' else value


def missing_attribute(name: str) -> str:
  """Message for an attribute that the pipeline does not have."""
  why = _ATTRIBUTES.get(name)
  return f'Pipeline has no attribute {name!r}' + (f': {why}.' if why else '.')


def _check_fixed(name, value):
  if value != _FIXED[name]:
    raise UserError(
      f'{name} is {value!r}; only {_FIXED[name]!r} is supported.',
      key=name,
      value=value,
      allowed=repr(_FIXED[name]),
    )


def _unknown(name, ours):
  if why := _INSTEAD.get(name):
    return UserError(f'{name} is not supported: {why}.', key=name)
  near = difflib.get_close_matches(name, [*ours, *_RENAMED], 1)
  hint = f'; did you mean {near[0]}?' if near else '.'
  return UserError(
    f'The call has no argument {name!r}{hint}', key=name, allowed=tuple(ours)
  )
