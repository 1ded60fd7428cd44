"""docs/comfyui.md: its command installs the nodes, and its names are theirs."""

import pathlib
import re
import subprocess

from comfyui import runner
import pytest

from sana_jax.comfyui import library, server

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'comfyui.md').read_text()


@pytest.mark.docs
def test_the_command_of_the_page_installs_the_nodes(tmp_path):
  (command,) = re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
  custom = tmp_path / 'ComfyUI' / 'custom_nodes'
  custom.mkdir(parents=True)
  checkout = tmp_path / 'checkout'
  checkout.symlink_to(ROOT)
  command = f'cd {checkout}; {command.replace("../", f"{tmp_path}/")}'
  subprocess.run(['bash', '-ec', command], check=True)
  module = runner.load(custom / 'sana_jax')
  shown = re.findall(r'^\| (.*? \(JAX\)) \|', PAGE, re.MULTILINE)
  assert shown == [*module.NODE_DISPLAY_NAME_MAPPINGS.values()]


def test_the_page_names_the_variables():
  assert {server.HOSTS, library.DOWNLOAD} == {
    *re.findall(r'SANA_JAX_\w+', PAGE)
  }
