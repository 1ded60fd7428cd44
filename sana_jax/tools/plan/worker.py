"""One compilation in its own process, which frees its memory on exit.

  python -m sana_jax.tools.plan.worker REQUEST.json PLAN.json

The caller reads XLA's messages from stderr.
"""

import dataclasses
import json
import pathlib
import resource
import sys
import tempfile

from ml_collections import ConfigDict

from sana_jax import files


def main(request: str, out: str) -> int:
  """Writes a Plan, null if its program is known, or what prevents one."""
  facts = files.read_json(request)
  import jax

  from sana_jax.errors import UserError
  from sana_jax.tools.plan.compiling import compile_plan

  # Programs for unattached chips cannot be read from the cache.
  jax.config.update('jax_enable_compilation_cache', False)
  with tempfile.TemporaryDirectory() as folder:
    try:
      facts['config'] = ConfigDict(facts['config'])
      plan = compile_plan(**facts, folder=pathlib.Path(folder))
    except UserError as e:
      found = {'error': str(e)}
    else:
      found = dataclasses.asdict(plan) if plan else None
  used = resource.getrusage(resource.RUSAGE_SELF)
  helpers = resource.getrusage(resource.RUSAGE_CHILDREN)  # Such as ptxas.
  found = {
    'plan': found,
    'host_bytes': used.ru_maxrss * 1024,  # KiB on Linux.
    'cpu_seconds': used.ru_utime + used.ru_stime + helpers.ru_utime,
  }
  files.write_text(out, json.dumps(found))
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
