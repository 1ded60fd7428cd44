"""Installed modules are run from any folder."""

import subprocess

import pytest

from sana_jax import interpreter

pytestmark = pytest.mark.fast


# In a clone, the folder sana_jax lacks configs, kernels and launch.
@pytest.mark.parametrize(
  'name', ['sana_jax.launch.cli', 'sana_jax.launch.supervise']
)
def test_a_folder_of_the_same_name_is_not_imported(name, tmp_path):
  (tmp_path / 'sana_jax').mkdir()
  (tmp_path / 'sana_jax/__init__.py').write_text('raise SystemExit(9)')
  done = subprocess.run(
    [*interpreter.module(name), '--help'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('usage: sana')
