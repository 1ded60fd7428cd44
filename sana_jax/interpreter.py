"""Commands that start this Python interpreter."""

import sys


def module(name: str, python: str | None = None) -> list[str]:
  """Command that runs an installed module, with unbuffered output.

  Without -P, Python would search the current folder first; in a clone of this
  project, its folder sana_jax is an incomplete package.
  """
  return [python or sys.executable, '-u', '-P', '-m', name]
