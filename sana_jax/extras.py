"""Optional packages, and the extras of setup.cfg that install them.

The package is installed from a clone, with the tested versions: no registry
has it.
"""

from sana_jax.errors import UserError

# By import name; every other optional package is in `train`.
EXTRAS = {
  'fastapi': 'demo',
  'gradio': 'demo',
  'starlette': 'demo',
  'uvicorn': 'demo',
  'gcsfs': 'gcs',
  's3fs': 's3',
  'libtpu': 'tpu',
  'jax_cuda13_plugin': 'gpu',
  'accelerate': 'parity',
  'came_pytorch': 'parity',
  'diffusers': 'parity',
  'torch': 'parity',
  'h5py': 'control',
  'skimage': 'control',
  'wandb': 'wandb',
}


def install(extra: str) -> str:
  """The command that installs an extra, and where it is run."""
  return f"pip install -e '.[{extra}]' -c constraints.txt in a clone"


def missing(
  package: str | None, what: str = 'This', extra: str = ''
) -> UserError:
  """Error for a package that is not installed; `what` needs it."""
  extra = extra or EXTRAS.get((package or '').partition('.')[0], 'train')
  return UserError(
    f'{what} needs the package {package}; install it with {install(extra)}.',
    key=extra,
    value=package,
  )
