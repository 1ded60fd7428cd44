"""The keys of preference tuning."""

from sana_jax.keys import (
  FRACTION,
  Key,
  Location,
  NOT_NEGATIVE,
  POSITIVE,
  RESULT,
)

DPO = {
  'beta': Key(
    2500.0,
    "Strength of the pull towards the base; half of the authors' beta.",
    POSITIVE,
  )
}

NFT = {
  'reward': Key(
    '',
    'Scorer of pictures: `shapes`, `clip:DIR`, or MODULE:FUNCTION of '
    '(prompts, images).',
    changes=RESULT,
  ),
  'prompts': Key(
    '',
    "File with a prompt in each line; '' takes the captions of the data.",
    changes=RESULT,
    location=Location(
      buckets=True, used=lambda values, begun: bool(values['nft.prompts'])
    ),
  ),
  'prompts_per_round': Key(48, 'Prompts of a round.', POSITIVE, RESULT),
  'images_per_prompt': Key(
    24, 'Pictures of each, which are compared.', POSITIVE, RESULT
  ),
  'round_steps': Key(
    48, 'Steps between two rounds of drawing pictures.', POSITIVE
  ),
  'steps': Key(10, 'Steps of the sampler in a round.', POSITIVE, RESULT),
  'guidance_scale': Key(
    1.0, 'Guidance of the pictures of a round; 1 is none.', NOT_NEGATIVE, RESULT
  ),
  'beta': Key(
    1.0, 'Step from the sampling policy that the loss mixes.', POSITIVE
  ),
  'clip': Key(
    5.0,
    'Standard deviations of a reward from the mean of its prompt beyond which '
    'pictures are equally good, or bad.',
    POSITIVE,
    RESULT,
  ),
  'old_decay': Key(
    0.5,
    'Decay, per round, of the EMA that is the sampling policy; 0 is the '
    'latest one.',
    FRACTION,
  ),
}
