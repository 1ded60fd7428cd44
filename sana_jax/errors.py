"""The exceptions that are told in one sentence."""


class UserError(ValueError):
  """One sentence: what was got, what is allowed, which key or flag to change.

  Commands print it without a traceback and end with its exit code.
  """

  exit_code = 2


class Trouble(UserError):
  """What may pass by itself: a disk, a bucket or a host that does not answer.

  Who started the command may start it again.
  """

  exit_code = 75  # EX_TEMPFAIL of sysexits.h.
