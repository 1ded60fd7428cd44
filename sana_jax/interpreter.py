"""This Python, started anew."""

import sys


def module(name: str, python: str | None = None) -> list[str]:
  """Words that run a module as it is installed; what it says comes at once.

  Without -P, Python would look into the folder it is in first; a clone of this
  project has a folder sana_jax there, which is not the whole package.
  """
  return [python or sys.executable, '-u', '-P', '-m', name]
