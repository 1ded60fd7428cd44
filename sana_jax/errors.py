"""The one exception for what a user can mend."""


class UserError(ValueError):
  """One sentence: what was got, what is allowed, which key or flag to change.

  Commands print it without a traceback and end with exit code 2.
  """
