"""--candidates N --scorer NAME: the best of N pictures of each prompt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import itertools

from sana_jax.errors import UserError
from sana_jax.launch import devices, failures
from sana_jax.printable import printable

FOUND = 'number', 'score'  # Attributes of a picture known once it is chosen.


def load(args, jobs: Sequence) -> dict[str, Callable]:
  """The scorers and comparators of the command, and those of its lines.

  A line may name a shipped one, or one that the command names: a prompt file
  imports no module.
  """
  used = dict.fromkeys(job.scorer for job in jobs if job.scorer)
  if args.candidates > 1 and not used:
    raise UserError(
      f'--candidates={args.candidates} needs a --scorer that '
      'chooses among them, such as shapes.',
      key='--scorer',
    )
  if not (used or args.scorer):
    return {}
  from sana_jax.evaluation import scorers

  devices.configure(args.cpu_devices)  # Before a user's module may use JAX.
  own = {name: _own(name) for name in args.scorer or ()}
  shipped = [x for x in scorers.SHIPPED if x in used and x not in own]
  return own | {name: scorers.load(name) for name in shipped}


def _own(name):
  """A scorer that the command names; only such a one may be a judge."""
  from sana_jax.evaluation import http_judge, nvila, scorers

  if http_judge.is_url(name):
    return http_judge.make(name)
  if nvila.is_name(name):
    return nvila.make(name)
  return scorers.load(name)


def costs(choosers: Mapping[str, Callable]) -> list[str]:
  """Sentences with what the judges among them have cost so far."""
  return [x.cost() for x in choosers.values() if hasattr(x, 'cost')]


def check(choosers: Mapping[str, Callable], args, job) -> None:
  """Raises UserError if the job's scorer is missing or does not support it."""
  if job.scorer is None:
    if args.candidates > 1:
      raise UserError(
        f'--candidates={args.candidates} needs a scorer, and there is none.',
        key='scorer',
      )
    return
  from sana_jax.evaluation import scorers

  if job.scorer not in choosers:
    allowed = dict.fromkeys((*scorers.SHIPPED, *choosers))
    raise UserError(
      f'scorer is {printable(repr(job.scorer), 60)}; allowed are '
      f'{", ".join(allowed)} (--scorer, repeated, allows more).',
      key='scorer',
      value=job.scorer,
      allowed=tuple(allowed),
    )
  if job.num_images > args.candidates:
    raise UserError(
      f'--candidates is {args.candidates}; it must be --num-images, '
      f'{job.num_images}, or more.',
      key='--candidates',
      value=args.candidates,
    )
  scorers.check(choosers[job.scorer], job.prompt)


def selection(args, job, rank: int) -> dict:
  """Metadata that determines the picture of a rank, besides prompt and seed."""
  return {'candidates': args.candidates, 'scorer': job.scorer, 'rank': rank}


def chosen(
  pipe,
  pictures,
  album,
  settings: dict,
  args,
  choosers: Mapping[str, Callable],
  failed: dict[str, str],
) -> Iterator[tuple[list, list]]:
  """Yields (pictures, their pixels) per prompt, with the outcome as metadata.

  Pictures of lines without a scorer are left out. `failed` receives the reason
  for each picture whose text cannot be encoded.
  """
  # Pictures of a line are chosen together.
  lines = [
    list(line) for _, line in itertools.groupby(pictures, lambda p: p.line)
  ]
  lines = [line for line in lines if any(album.made(p) is None for p in line)]
  for name, chooser in choosers.items():
    own = [line for line in lines if line[0].about.get('scorer') == name]
    on_bad = functools.partial(
      _fail, own, failed, album, len(pictures), args.max_bad_fraction
    )
    yield from _best(pipe, own, album, settings, args, chooser, on_bad)


def _fail(lines, failed, album, total, most, i, reason):
  failures.add(failed, lines[i], reason, album, total, most)


def _best(pipe, lines, album, settings, args, chooser, on_bad):
  """The pictures of lines with the same scorer."""
  from sana_jax.inference import batches, candidates

  for i, best in candidates.generate(
    pipe,
    [batches.request_of(line[0].about) for line in lines],
    args.candidates,
    [len(line) for line in lines],
    chooser,
    args.batch_size,
    on_bad=on_bad,
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
