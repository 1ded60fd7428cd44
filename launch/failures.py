"""Pictures of `sana-jax sample` that cannot be drawn, by file and reason."""

from collections.abc import Sequence

from sana_jax.errors import UserError
from sana_jax.printable import counted


def add(
  failed: dict[str, str],
  pictures: Sequence,
  reason: str,
  album,
  total: int,
  most: float,
) -> None:
  """Adds pictures to `failed`, and lists those with NaN in results.jsonl.

  Args:
    album: the gallery.
    total: number of the run's pictures.
    most: --max-bad-fraction, of the pictures that may have NaN.

  Raises UserError if there are more.
  """
  from sana_jax.inference.decoding import NOT_FINITE

  failed.update({p.file: reason for p in pictures})
  if reason != NOT_FINITE:
    return
  album.mark_bad(pictures, reason)
  bad = [file for file, reason in failed.items() if reason == NOT_FINITE]
  if len(bad) > most * total:
    raise UserError(
      f'{len(bad):,} of {counted(total, "picture is", "pictures are")} bad, '
      'more than '
      f'--max-bad-fraction={most:g} allows: {bad[0]} {reason}',
      key='--max-bad-fraction',
      value=most,
      allowed=f'{len(bad) / total:g} or more',
    )
