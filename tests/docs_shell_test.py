"""Commands of the docs pages in a real shell, in a fresh clone."""

import json
import pathlib
import re

import numpy as np
import pages
from PIL import Image
import pytest

from sana_jax import config as base
from sana_jax.evaluation import new_shape
from sana_jax.inference.images import write_png
from sana_jax.tree import flatten

PAGES = {p.stem: p.read_text('utf-8') for p in sorted(pages.DOCS.glob('*.md'))}
WITH_COMMANDS = [name for name, page in PAGES.items() if pages.commands(page)]
# Their commands need files that these tests make.
ELSEWHERE = {'data': 'docs_data_test.py', 'extending': 'docs_extending_test.py'}


@pytest.fixture
def run(page_shell, tmp_path, monkeypatch):
  """Runs all commands of a page; returns their outputs, in their order."""
  monkeypatch.chdir(tmp_path)

  def outputs(name):
    lines = [pages.smaller(command) for command in pages.commands(PAGES[name])]
    return page_shell(lines, tmp_path)

  return outputs


def prepare_sampling():
  (code,) = pages.blocks(PAGES['sampling'], ['python'])
  pathlib.Path('mine.py').write_text(code)
  (lines,) = pages.blocks(PAGES['sampling'], ['json'])
  pathlib.Path('prompts.jsonl').write_text(lines)


def check_sampling(_):
  many, best, _, judged = (
    [json.loads(x) for x in path.read_text('utf-8').splitlines()]
    for name in ('many', 'best', 'contrast', 'stronger')
    for path in [pathlib.Path('out', name, 'results.jsonl')]
  )
  sizes = [(x['height'], x['width']) for x in many]
  assert sizes == [(96, 128)] * 2 + [(128, 128)] * 3
  assert many[-2]['file'] == 'square-0.png'
  assert 'score' in best[0] and 'score' not in judged[0]


def check_weights(_):
  shipped = pathlib.Path('sana_jax/assets/shapes')  # Of the clone.
  for path in shipped.rglob('*'):
    for folder in ('again', 'third'):
      copy = pathlib.Path('out', folder, path.relative_to(shipped))
      assert path.is_dir() or copy.read_bytes() == path.read_bytes()


def check_watching(_):
  assert [*pathlib.Path('out/watched/profile/step_000002').rglob('*.pb')]
  page = PAGES['watching']
  found = json.loads(pathlib.Path('out/watched/metrics.jsonl').read_text())
  of_task = {'next_token', 'own_token', 'earliest_token'}
  assert not {
    name
    for name in found
    if f'`{name}`' not in page
    and not name.startswith(('grad_norm/', 'step_seconds/'))
    and name not in of_task
  }


def check_planning(outputs):
  refusals = [x for x in outputs if 'Compiling for these needs' in x]
  assert len(refusals) == len(pages.commands(PAGES['planning'])) - 3
  (shardings,) = [x for x in outputs if x.startswith('dp: ')]
  printed = [
    line
    for line in shardings.splitlines()
    if not re.match(r'  \S+ [\dx]+: ', line)  # A shard.
  ]
  (block,) = [x for x in pages.blocks(PAGES['planning'], ['']) if 'dp: ' in x]
  assert printed == block.splitlines() and len(printed) == 10


def check_launching(outputs):
  commands = pages.commands(PAGES['launching'])
  local, *others = (
    output
    for command, output in zip(commands, outputs)
    if command.startswith('sana-jax launch ')
  )
  assert 'The model is in' in local and others
  for output in others:
    assert re.search('sana-jax.*train|sana_jax.launch.cli train', output)
  assert [x.name for x in pathlib.Path('out').iterdir()] == ['run']


def check_demo(outputs):
  _, *served = outputs
  assert len(served) == 3
  assert all(re.match(r'\S.* http://\S+:\d+', x) for x in served)


def check_autoencoder(_):
  for workdir in ('phase1', 'phase2', 'tuned'):
    assert pathlib.Path('out', workdir, 'model').is_dir()


def check_kernels(_):
  with Image.open('out/chunked/contact_sheet.png') as image:
    assert image.width >= 128


def prepare_your_pictures():
  for folder in ('pictures', 'kohya/3_a diamond'):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for i, (image, _) in enumerate(new_shape.pictures('diamond', 3, 0)):
      write_png(folder / f'{i}.png', image)
  write_png('pictures/0.mask.png', np.full((128, 128), 128, np.uint8))


def check_your_pictures(_):
  for workdir in ('trial', 'tags', 'prior'):
    assert [*pathlib.Path('out', workdir, 'model').glob('*.safetensors')]
  assert len([*pathlib.Path('out/prior/class').glob('*/*.png')]) == 4
  assert pathlib.Path('out/pictures/contact_sheet.png').is_file()


BEFORE = {
  'sampling': prepare_sampling,
  'your_pictures': prepare_your_pictures,
}
AFTER = {
  'autoencoder': check_autoencoder,
  'demo': check_demo,
  'kernels': check_kernels,
  'launching': check_launching,
  'planning': check_planning,
  'sampling': check_sampling,
  'watching': check_watching,
  'weights': check_weights,
  'your_pictures': check_your_pictures,
}


@pytest.mark.docs
@pytest.mark.parametrize(
  'name', [name for name in WITH_COMMANDS if name not in ELSEWHERE]
)
def test_the_commands_of_a_page_run_in_a_new_shell(name, run):
  BEFORE.get(name, lambda: None)()
  AFTER.get(name, lambda outputs: None)(run(name))


@pytest.mark.parametrize('name', ELSEWHERE)
def test_a_page_with_files_of_its_own_is_run_by_its_test(name):
  test = (pages.ROOT / 'tests' / ELSEWHERE[name]).read_text()
  assert name in WITH_COMMANDS and 'page_shell(' in test


@pytest.mark.parametrize('name', WITH_COMMANDS)
def test_a_page_with_commands_activates_the_environment(name):
  before = ' '.join(pages.before_commands(PAGES[name]).split())
  line = '`source .venv/bin/activate` ([first image](../README.md#first-image))'
  assert line in before


@pytest.mark.parametrize('name', WITH_COMMANDS)
def test_each_line_of_a_block_is_a_command(name):
  shown = pages.commands(PAGES[name])
  for line in pages.lines(PAGES[name], ['bash']):
    assert line in shown
  for block in pages.blocks(PAGES[name], ['']):
    # Others are the output of a command, or flags.
    assert re.match(rf'{pages.STARTS}|dp: |--config', block)


def test_each_row_of_the_tables_changes_a_command():
  texts = [*PAGES.values(), (pages.ROOT / 'README.md').read_text('utf-8')]
  commands = [c for text in texts for c in pages.commands(text)]
  for old in pages.FILLED:
    assert any(old in c for c in commands), old
  for pattern in [*pages.SMALLER, *(row[0] for row in pages.CHECKED)]:
    assert any(re.search(pattern, f'{c} ') for c in commands), pattern


def test_the_keys_of_the_page_on_watching_exist():
  row = r'^\| `([\w.]+)` \| \d+ \|'
  keys = re.findall(row, PAGES['watching'], re.MULTILINE)
  assert keys and {*keys} <= {*flatten(base.train('sana'), '.')}
