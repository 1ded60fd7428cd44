"""The instruction before a prompt, and cleaning of prompts.

SANA's text encoder reads an instruction to a language model before the prompt
("complex human instruction", SANA section 3.1). Nothing is generated; it only
conditions the hidden states. The published weights require the exact text. This
is diffusers' wording; NVlabs' configs only differ in double quotes around
"Enhanced prompt" (`OFFICIAL_INSTRUCTION`).
"""

from sana_jax.errors import UserError

INSTRUCTION_LINES = (
  "Given a user prompt, generate an 'Enhanced prompt' that provides detailed "
  'visual descriptions suitable for image generation. Evaluate the level of '
  'detail in the user prompt:',
  '- If the prompt is simple, focus on adding specifics about colors, shapes, '
  'sizes, textures, and spatial relationships to create vivid and concrete '
  'scenes.',
  '- If the prompt is already detailed, refine and enhance the existing '
  'details slightly without overcomplicating.',
  'Here are examples of how to transform or refine prompts:',
  '- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled '
  'up in a round shape, sleeping peacefully on a warm sunny windowsill, '
  'surrounded by pots of blooming red flowers.',
  '- User Prompt: A busy city street -> Enhanced: A bustling city street scene '
  'at dusk, featuring glowing street lamps, a diverse crowd of people in '
  'colorful clothing, and a double-decker bus passing by towering glass '
  'skyscrapers.',
  'Please generate only the enhanced description for the prompt below and '
  'avoid including any additional commentary or evaluations:',
  'User Prompt: ',
)
INSTRUCTION = '\n'.join(INSTRUCTION_LINES)
OFFICIAL_INSTRUCTION = INSTRUCTION.replace(
  "'Enhanced prompt'", '"Enhanced prompt"'
)


def clean(prompt: str) -> str:
  """Lower-cased and stripped prompt, as by default in diffusers.

  Its optional `clean_caption` (off in every pipeline) is not supported.
  """
  return prompt.lower().strip()


def check(prompt: object, name: str = 'prompt') -> None:
  """Raises UserError for a prompt that is not text or cannot be encoded."""
  if not isinstance(prompt, str):
    raise UserError(
      f'{name} is of type {type(prompt).__name__}; it must be text.',
      key=name,
      value=prompt,
      allowed='text',
    )
  try:
    prompt.encode()
  except UnicodeEncodeError as e:
    half = ord(prompt[e.start])
    # Undecodable bytes are represented as U+DC80 to U+DCFF.
    kind = (
      f'the byte 0x{half - 0xDC00:02x}, which is not UTF-8,'
      if 0xDC80 <= half <= 0xDCFF
      else f'half a surrogate pair, U+{half:04X},'
    )
    raise UserError(
      f'{name} has {kind} at character {e.start + 1}; give valid Unicode text.',
      key=name,
      value=prompt,
      allowed='valid Unicode text',
    ) from None
