"""sana-jax sample with a SANA-Sprint, and the commands of the page about it."""

import json
import pathlib
import re
import shlex
import shutil

import numpy as np
from PIL import Image
import pytest

from sana_jax import Pipeline

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'


@pytest.fixture(scope='module')
def sprint(tmp_path_factory):
  """A whole SANA-Sprint: tiny_sprint, and the other parts of tiny_sana."""
  folder = tmp_path_factory.mktemp('sprint') / 'model'
  shutil.copytree(GOLDEN / 'tiny_sana', folder)
  shutil.copytree(GOLDEN / 'tiny_sprint', folder, dirs_exist_ok=True)
  return folder


@pytest.fixture
def photo(tmp_path):
  values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  Image.fromarray(values).save(tmp_path / 'photo.png')
  return tmp_path / 'photo.png'


def listed(folder):
  lines = (folder / 'results.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.docs
def test_the_commands_of_the_page_run(
  sprint, photo, tmp_path, monkeypatch, cli
):
  monkeypatch.chdir(tmp_path)
  page = (ROOT / 'docs' / 'sampling.md').read_text()
  (block,) = re.findall(r'```sh\n(.*?)```', page, re.DOTALL)
  found = {}
  for line in block.splitlines():
    words = shlex.split(line.replace('sana_sprint_600m_1024', str(sprint)))
    code, _, err = cli(*words[1:])
    assert code == 0, err
    (found[words[-1]],) = listed(tmp_path / words[-1])
  two, one, times, edited = found.values()
  assert {x['sampler'] for x in found.values()} == {'scm'}
  assert (two['steps'], two['guidance_scale']) == (2, 4.5)
  assert one['steps'] == 1
  assert (times['steps'], times['times']) == (2, [1.5708, 1.0])
  assert edited['strength'] == 0.5 and edited['image']['file'] == 'photo.png'
  (code,) = re.findall(r'```text\n(.*?)```', page, re.DOTALL)
  code = code.replace('sana_sprint_600m_1024', str(sprint))
  exec(code, {'Pipeline': Pipeline})  # noqa: S102


@pytest.mark.long
def test_a_changed_image_needs_another_folder(sprint, photo, tmp_path, cli):
  argv = ['sample', '--model', sprint, '--prompt', 'a red circle']
  argv += ['--steps', 1, '--image', photo, '--out', tmp_path / 'out']
  assert cli(*argv)[0] == 0
  made = (tmp_path / 'out' / '00000-0-a-red-circle.png').read_bytes()
  assert cli(*argv)[0] == 0  # Nothing is left to do.
  Image.new('RGB', (8, 8), 'red').save(photo)
  code, _, err = cli(*argv)
  assert code == 2 and 'image' in err and 'another --out' in err
  assert (tmp_path / 'out' / '00000-0-a-red-circle.png').read_bytes() == made


@pytest.mark.long
def test_a_line_with_other_steps_than_the_angles_is_skipped(
  sprint, tmp_path, cli
):
  lines = [
    {'prompt': 'a red circle'},
    {'prompt': 'a cat', 'steps': 3},
    {'prompt': 'a dog', 'sampler': 'euler'},
  ]
  prompts = tmp_path / 'prompts.jsonl'
  prompts.write_text('\n'.join(map(json.dumps, lines)))
  argv = ['sample', '--model', sprint, '--prompts', prompts, '--times', 1.3]
  argv += ['--max-bad-fraction', 0.9, '--out', tmp_path / 'out']
  code, _, err = cli(*argv)
  assert code == 0, err
  assert [x['prompt'] for x in listed(tmp_path / 'out')] == ['a red circle']
  skipped = (tmp_path / 'out' / 'skipped.jsonl').read_text().splitlines()
  assert len(skipped) == 2


@pytest.mark.parametrize(
  'flags',
  [
    ['--times', '1.0,1.3'],
    ['--times', '1.3,'],
    ['--times', 'noise'],
    ['--strength', '-0.1'],
    ['--strength', '1.5'],
  ],
  ids=str,
)
@pytest.mark.fast
def test_bad_angles_and_strengths_are_refused(refused, flags):
  common = ['--model', 'shapes', '--out', 'o', '--prompt', 'x']
  assert flags[0] in refused('sample', *common, *flags)


@pytest.mark.long
@pytest.mark.parametrize(
  'flags, word',
  [
    (['--times', '1.6'], 'times'),
    (['--times', '1.3', '--steps', '2'], 'steps'),
    (['--strength', '0.5'], 'image'),
    (['--sampler', 'euler', '--times', '1.0'], 'times'),
    (['--image', 'absent.png'], 'absent.png'),
    (['--guidance-interval', '0.1:0.9'], 'interval'),
  ],
  ids=str,
)
def test_what_does_not_fit_is_refused(sprint, refused, tmp_path, flags, word):
  out = tmp_path / 'out'
  common = ['--model', str(sprint), '--out', str(out), '--prompt', 'x']
  assert word in refused('sample', *common, *flags)


@pytest.mark.long
def test_a_sprints_transformer_makes_a_sana_a_sprint(tiny_sana, tmp_path):
  from sana_jax.inference.schedulers import read_scheduler
  from sana_jax.weights import exchange

  base = exchange.open_source(str(tiny_sana))
  own = exchange.open_source(str(GOLDEN / 'tiny_sprint' / 'transformer'))
  whole = exchange.Source({**base.parts, **own.parts}, base.folder)
  exchange.write(whole, tmp_path / 'out', 'diffusers')
  index = json.loads((tmp_path / 'out' / 'model_index.json').read_text())
  want = json.loads((GOLDEN / 'tiny_sprint' / 'model_index.json').read_text())
  assert index == want
  assert read_scheduler(tmp_path / 'out')[0] == 'scm'
