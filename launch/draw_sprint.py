"""Picture of a Sprint's and its teacher's samples by the number of steps."""

from collections.abc import Sequence
import textwrap

from sana_jax.tools import plots

# Held-out prompts of the suite `shapes`, one of each kind.
PROMPTS = (
  'a triangle',
  'a triangle and a star',
  'three stars',
  'one green circle',
  'a blue circle is left of a red square',
  'a purple square and a green triangle',
)
ROWS = (
  ('shapes-sprint', 1),
  ('shapes-sprint', 2),
  ('shapes-sprint', 4),
  ('shapes', 20),
  ('shapes', 4),
  ('shapes', 2),
  ('shapes', 1),
)


def few_steps(prompts: Sequence[str] = PROMPTS) -> bytes:
  """PNG with a row for each model and number of steps, of the same noise."""
  from sana_jax.inference.pipeline import Pipeline

  names = {name for name, _ in ROWS}
  pipes = {name: Pipeline.from_pretrained(name) for name in names}
  drawn = plots.figure(1.5 * len(prompts), 1.3 * len(ROWS))
  for row, (name, steps) in enumerate(ROWS):
    images = pipes[name].draw(
      list(prompts), steps=steps, seed=list(range(len(prompts)))
    )
    for column, image in enumerate(images):
      place = row * len(prompts) + column + 1
      axes = drawn.add_subplot(len(ROWS), len(prompts), place)
      axes.imshow(image)
      axes.set_xticks([])
      axes.set_yticks([])
      if not column:
        calls = f'{steps} step{"s" * (steps > 1)}'
        axes.set_ylabel(f'{name}\n{calls}', fontsize=8)
      if not row:
        axes.set_title(textwrap.fill(prompts[column], 22), fontsize=7)
  return plots.png(drawn)
