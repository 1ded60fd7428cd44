"""Pictures of `sana-jax sample`: planned, generated and on a contact sheet."""

from collections.abc import Sequence
import itertools

from sana_jax.inference.jobs import Job
from sana_jax.launch import best_of, control, curves, failures
from sana_jax.launch.skipped import part_name, report

ON_SHEET = 64  # Pictures, from the first on.
_OF_LINE = 'id', 'aspect_ratio'  # Columns that are metadata as they are.


def draw(
  pipe, jobs: Sequence[Job], settings: dict, args, out, lock, choosers
) -> tuple[int, dict[int, str]]:
  """Generates the pictures that are missing in `out`.

  Args:
    choosers: scorers and comparators by name.

  Returns:
    Number of pictures in `out`, and the lines without: number and reason.
  """
  import jax
  from tqdm import tqdm

  from sana_jax.inference import gallery
  from sana_jax.inference.score_log import ScoreLog

  index, count = jax.process_index(), jax.process_count()
  if choosers:  # One process generates all candidates of a prompt.
    pictures = plan(jobs[index::count], settings, args)
  else:
    pictures = plan(jobs, settings, args)[index::count]
  of, failed = part_name(), {}
  log = ScoreLog(out, f'scores{of}.jsonl')
  with tqdm(total=len(pictures), desc='pictures', unit='image') as bar:
    with gallery.Gallery(
      out,
      pictures,
      name=f'results{of}.jsonl',
      shard_size=args.shard_size,
      prefix=of[1:] + of[:1],
      on_written=bar.update,
    ) as album:
      missing = album.missing(decoded=ON_SHEET)
      bar.clear()
      report(
        [
          f'{out / name} is damaged; it is made again.'
          for name in album.damaged
        ]
      )
      bar.update(len(pictures) - len(missing))
      bar.unpause()
      for made, images in itertools.chain(
        best_of.chosen(
          pipe, pictures, album, settings, args, choosers, failed, log
        ),
        _all(pipe, pictures, missing, album, settings, args, failed),
      ):
        lock.check()
        album.add(made, images)
    failed |= album.failed
    curves.write(out / f'candidates{of}', pictures, choosers, args, log)
    there = [p for p in pictures if p.file not in failed]
    if there:  # There may be fewer prompts than processes.
      _write_sheet(out / f'contact_sheet{of}.png', album, there[:ON_SHEET])
  return len(there), {
    p.line: failed[p.file] for p in pictures if p.file in failed
  }


def _all(pipe, pictures, missing, album, settings, args, failed):
  """Yields (pictures, their pixels) per batch, of lines without a scorer."""
  from sana_jax.inference import batches

  total = len(pictures)
  pictures = [p for p in pictures if 'scorer' not in p.about]

  def on_bad(indices, reason):
    failures.add(
      failed,
      [pictures[i] for i in indices],
      reason,
      album,
      total,
      args.max_bad_fraction,
    )

  files = {p.file for p in missing}
  for indices, images in batches.generate(
    pipe,
    [batches.request_of(p.about) for p in pictures],
    args.batch_size,
    wanted={i for i, p in enumerate(pictures) if p.file in files},
    on_bad=on_bad,
    **settings,
  ):
    yield [pictures[i] for i in indices], images


def _write_sheet(path, album, pictures):
  import numpy as np

  from sana_jax.inference.images import contact_sheet, write_png

  write_png(
    path,
    contact_sheet(
      [np.asarray(album.open(p)) for p in pictures],
      [p.about['prompt'] for p in pictures],
    ),
  )


def plan(jobs: Sequence[Job], settings: dict, args) -> list:
  """Pictures to generate, in order: files and metadata that determine them."""
  from sana_jax.inference.batches import Request
  from sana_jax.inference.gallery import about, Picture

  def picture(job, k):
    metadata = about(
      Request(
        job.prompt,
        job.seed,
        k,
        job.negative_prompt,
        job.height,
        job.width,
        control_image=control.described(job),
      ),
      settings | job.settings(),
      args.model,
    )
    metadata |= control.about(args)
    metadata |= {x: getattr(job, x) for x in _OF_LINE if getattr(job, x)}
    if args.lora:
      metadata['lora'] = ' '.join(f'{path}:{w:g}' for path, w in args.lora)
    if job.scorer:  # The candidate is not chosen yet.
      del metadata['number']
      metadata |= best_of.selection(args, job, k)
    return Picture(
      job.picture(k, args.format),
      metadata,
      best_of.found(job) if job.scorer else (),
      job.line,
    )

  return [picture(job, k) for job in jobs for k in range(job.num_images)]
