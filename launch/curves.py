"""Curve of `sana-jax sample --candidates N`: the best score against N."""

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import json
import pathlib

from sana_jax import files
from sana_jax.launch import best_of


def write(
  stem: pathlib.Path,
  pictures: Sequence,
  choosers: Mapping[str, Callable | best_of.Judges],
  args,
  log,
) -> None:
  """Writes the curve as .json and .png; nothing if no prompt has all scores."""
  if args.candidates < 2 or not (
    made := _curves(pictures, choosers, args, log)
  ):
    return
  content = {
    'candidates': counts(args),
    'value': 'expected highest score of that many of the candidates',
    'judges': made,
    'costs': best_of.costs(choosers),
  }
  text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
  files.write_text(stem.with_suffix('.json'), text)
  if importlib.util.find_spec('matplotlib') is None:  # Of the extra `train`.
    return
  from sana_jax.tools import plots

  lines = {name: own['mean'] for name, own in made.items()}
  files.write_bytes(
    stem.with_suffix('.png'), plots.best_of(content['candidates'], lines)
  )


def counts(args) -> list[int]:
  """Numbers of candidates on the curve."""
  from sana_jax.inference import ranking

  return ranking.counts_up_to(args.candidates)


def _curves(pictures, choosers, args, log):
  """Expected best scores of each prompt, and their mean, by judge."""
  import numpy as np

  from sana_jax.inference import ranking
  from sana_jax.inference.score_log import key_of

  out = {}
  for picture in pictures:
    judges = best_of.judges_of(picture.about.get('scorer'), choosers)
    if picture.about.get('rank') or not judges:
      continue
    scores = log.of(key_of(picture.about), tuple(judges), args.candidates)
    if len(scores) < args.candidates:
      continue  # Its text cannot be encoded.
    for name in judges:
      own = [scores[n][name] for n in range(args.candidates)]
      out.setdefault(name, {'prompts': {}})['prompts'][picture.file] = (
        ranking.expected_best(own, counts(args))
      )
  for own in out.values():
    own['mean'] = np.mean([*own['prompts'].values()], axis=0).tolist()
  return out
