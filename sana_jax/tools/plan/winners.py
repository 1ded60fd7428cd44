"""Page of the fastest layout of each config on each pod."""

from collections.abc import Mapping
from typing import Any

from sana_jax.tools import report as reports
from sana_jax.tools.report import Bars

Facts = Mapping[str, Any]  # Command, compilers, rows with the header first.


def rows(facts: Facts) -> list[dict[str, str]]:
  """Cells of each row by column."""
  head, *body = facts['rows']
  return [dict(zip(head, cells)) for cells in body]


def fitting(facts: Facts) -> list[dict[str, str]]:
  """Rows of pods with a layout that fits."""
  return [row for row in rows(facts) if row['img/s']]


def result(facts: Facts) -> str:
  """Sentence with the number of pods that fit, and the largest MFU."""
  every, found = rows(facts), fitting(facts)
  text = f'{len(found)} of {len(every)} pairs of config and pod have a layout'
  if not found:
    return f'{text} that fits.'
  top = max(found, key=lambda row: float(row['MFU'].rstrip('%')))
  return (
    f'{text} that fits, compiled and not run; the largest predicted MFU is '
    f'{top["MFU"]}, of {top["config"]} on {top["pod"]}.'
  )


def bars(facts: Facts) -> Bars:
  """Predicted images/s by pod and config."""
  groups = {}
  for row in fitting(facts):
    rate = float(row['img/s'].replace(',', ''))
    groups.setdefault(row['pod'], {})[row['config']] = rate
  title = 'The fastest layouts found: compiled, not run'
  axis = 'images a second of the pod, predicted: an upper bound'
  return Bars(title, axis, groups, ',.0f', log=True)


def markdown(facts: Facts, picture: str = '') -> str:
  """The page, with the file `picture` at its top."""
  head = reports.fixed('winners.md').format(
    versions=reports.listed(facts['compilers']), command=facts['command']
  )
  lines = '\n'.join(reports.markdown(facts['rows'], 4))
  return f'{reports.opened(head, result(facts), picture)}{lines}\n'
