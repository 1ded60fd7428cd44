"""Judges of candidates, combined by the mean of their ranks.

Judges have scales of their own, so that their scores are not added: each one
ranks the candidates of a prompt, 1 for the best, equal scores sharing the mean
of their ranks; the mean rank over judges decides, and the lower number wins a
tie. With one judge this is the order of its scores.
"""

from collections.abc import Sequence
import math

import numpy as np

from sana_jax.typing import Float


def ranks(scores: Float[np.ndarray, 'n']) -> Float[np.ndarray, 'n']:
  """Rank of each score, 1 for the highest; equal ones share their mean."""
  _, which, counts = np.unique(
    -np.asarray(scores), return_inverse=True, return_counts=True
  )
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[which]


def mean_ranks(scores: Float[np.ndarray, 'n j']) -> Float[np.ndarray, 'n']:
  """Mean rank of each candidate over the judges."""
  return np.mean([ranks(own) for own in np.transpose(scores)], axis=0)


def counts_up_to(most: int) -> list[int]:
  """1, 2, 4, ... and `most` itself."""
  return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def expected_best(
  scores: Sequence[float], counts: Sequence[int]
) -> list[float]:
  """Expected highest score among n of the candidates, for each n of `counts`.

  n of the N candidates are drawn without replacement. The i-th lowest is the
  highest of them with probability C(i - 1, n - 1) / C(N, n).
  """
  ascending, out = sorted(scores), []
  for n in counts:
    total = math.comb(len(ascending), n)
    out.append(
      math.fsum(
        score * (math.comb(i, n - 1) / total)
        for i, score in enumerate(ascending)
      )
    )
  return out
