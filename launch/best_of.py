"""--candidates N --scorer NAME: the best of N pictures of each prompt."""

from collections.abc import Callable, Iterator
import itertools

from sana_jax.errors import UserError
from sana_jax.launch import devices, failures

FOUND = 'number', 'score'  # Attributes of a picture known once it is chosen.


def scorer(args) -> Callable | None:
  """Returns the requested scorer or judge."""
  if args.candidates > 1 and not args.scorer:
    raise UserError(
      f'--candidates={args.candidates} needs a --scorer that '
      'chooses among them, such as shapes.',
      key='--scorer',
    )
  if not args.scorer:
    return None
  from sana_jax.evaluation import scorers

  devices.configure(args.cpu_devices)  # Before a user's module may use JAX.
  return scorers.load(args.scorer)


def check(chooser: Callable | None, candidates: int, job) -> None:
  """Raises UserError if the scorer does not support the job."""
  if chooser is None:
    return
  from sana_jax.evaluation import scorers

  if job.num_images > candidates:
    raise UserError(
      f'--candidates is {candidates}; it must be --num-images, '
      f'{job.num_images}, or more.',
      key='--candidates',
      value=candidates,
    )
  scorers.check(chooser, job.prompt)


def selection(args, rank: int) -> dict:
  """Metadata that determines the picture of a rank, besides prompt and seed."""
  return {'candidates': args.candidates, 'scorer': args.scorer, 'rank': rank}


def chosen(
  pipe,
  pictures,
  album,
  settings: dict,
  args,
  chooser: Callable,
  failed: dict[str, str],
) -> Iterator[tuple[list, list]]:
  """Yields (pictures, their pixels) per prompt, with the outcome as metadata.

  `failed` receives the reason for each picture whose text cannot be encoded.
  """
  from sana_jax.inference import batches, candidates

  # Pictures of a line are chosen together.
  lines = [
    list(line)
    for _, line in itertools.groupby(
      pictures, lambda p: p.file.partition('-')[0]
    )
  ]
  lines = [line for line in lines if any(album.made(p) is None for p in line)]
  for i, best in candidates.generate(
    pipe,
    [batches.request_of(line[0].about) for line in lines],
    args.candidates,
    [len(line) for line in lines],
    chooser,
    args.batch_size,
    on_bad=lambda i, reason: failures.add(
      failed,
      lines[i],
      reason,
      album,
      len(pictures),
      args.max_bad_fraction,
    ),
    **settings,
  ):
    # A run may have been interrupted between two of them.
    there = {made['number'] for p in lines[i] if (made := album.made(p))}
    missing = [p for p in lines[i] if album.made(p) is None]
    fresh = [c for c in best if c.number not in there][: len(missing)]
    yield (
      [
        p._replace(about={**p.about, **outcome(c)})
        for p, c in zip(missing, fresh)
      ],
      [c.image for c in fresh],
    )


def outcome(candidate) -> dict:
  """Metadata of a chosen candidate; a judge gives no score."""
  score = {} if candidate.score is None else {'score': candidate.score}
  return {'number': candidate.number, **score}
