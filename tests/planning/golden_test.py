"""What lies where on pods: a change of the tables or layouts is a diff here.

Written by `sana-jax plan --config C --topology T --shardings`; the sizes of
parts are checked against closed forms below.
"""

import pathlib
import re

import pytest

from sana_jax.launch import cli

FOLDER = pathlib.Path(__file__).parents[1] / 'golden/plans'
CONFIG = 'sana_1600m_1024'
PODS = ('v5e:16x16', 'v5p:4x4x8', 'tpu7x:4x4x8', 'h200:1x1x8', 'h200:1x32x8')


def path(pod):
  return FOLDER / f'{CONFIG}-{re.sub("[:@]", "-", pod)}.txt'


@pytest.mark.parametrize('pod', PODS)
def test_parameters_lie_where_they_did(pod, capsys):
  assert cli.main(
    ['plan', '--config', CONFIG, '--topology', pod, '--shardings']) == 0
  assert capsys.readouterr().out == path(pod).read_text(), (
    f'Where parameters lie on {pod} has changed; if it is meant, write '
    f'{path(pod).name} again with sana-jax plan --shardings.')


@pytest.mark.parametrize('pod, layout, devices', [
  ('v5e:16x16', 'dp', 1), ('v5e:16x16', 'fsdp_64', 64),
  ('h200:1x1x8', 'fsdp', 8)])
def test_a_part_of_the_parameters_is_by_their_count(pod, layout, devices):
  text = path(pod).read_text().partition(f'{layout}: ')[2]
  found = float(re.search(r'parameters ([\d.]+) MiB', text)[1])
  # 1,604,462,752 float32 numbers; biases and tables are on every device.
  whole = 1_604_462_752 * 4 / 2**20
  assert whole / devices <= found + .05 and found < whole / devices + 12
