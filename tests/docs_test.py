"""Openings, links and pictures of the docs."""

import io
import pathlib
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from sana_jax.launch import draw_docs

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
NAMES = [str(path.relative_to(DOCS)) for path in PAGES]
TEXTS = [*PAGES, ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
LINK = re.compile(r'(!?)\[[^\]]*\]\(((?!http)[^)\s]+)\)', re.DOTALL)


def prose(path):
  """Text of a page without blocks of code."""
  return re.sub(r'```.*?```', '', path.read_text('utf-8'), flags=re.DOTALL)


def anchors(path):
  """Anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', prose(path), re.MULTILINE)
  plain = (re.sub(r'[^\w\- ]', '', text.lower()) for text in headings)
  return {text.replace(' ', '-') for text in plain}


@pytest.mark.parametrize('path', PAGES, ids=NAMES)
def test_a_page_opens_with_its_result(path):
  title, first, *_ = path.read_text('utf-8').split('\n\n')
  assert title.startswith('# ') and '\n' not in title
  text = ' '.join(first.split())
  assert text.endswith('.') and not re.match(r'[|!#-]|```', text)
  assert not re.search(r'[.!?] [A-Z`]', text), 'several sentences'
  assert len(text.split()) < 65


def test_links_lead_to_pages_and_headings():
  count = 0
  for page in TEXTS:
    for _, target in LINK.findall(prose(page)):
      name, _, anchor = target.partition('#')
      path = page.parent / name if name else page
      assert path.exists(), f'{page.name}: {target}'
      assert not anchor or anchor in anchors(path), f'{page.name}: {target}'
      count += 1
  assert count > 100


def test_every_picture_is_shown_and_small():
  shown = {
    (page.parent / target).resolve()
    for page in TEXTS
    for picture, target in LINK.findall(prose(page))
    if picture
  }
  assert shown == {path.resolve() for path in DOCS.rglob('*.png')}
  large = {p.name for p in shown if p.stat().st_size > 150_000}
  assert large == {'pictures.png'}  # Of a model, so in all its colours.


def test_a_page_explains_frames_exactly_if_a_picture_has_them():
  for page in TEXTS:
    framed = [
      target
      for picture, target in LINK.findall(prose(page))
      # The red of contact_sheet; no shape has it, nor any axis.
      if picture and (rgb(page.parent / target) == (255, 0, 0)).all(-1).any()
    ]
    assert ('framed' in prose(page)) == bool(framed), page.name


def rgb(path):
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


@pytest.mark.long
def test_pages_and_pictures_are_those_of_their_results(tmp_path):
  for path in DOCS.rglob('*.json'):
    copy = tmp_path / path.relative_to(DOCS)
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(path, copy)
  plans = ROOT / 'tests/golden/plans'
  arguments = ['--out', str(tmp_path), '--golden', str(plans)]
  assert draw_docs.main(arguments) == 0
  made = [x for x in tmp_path.rglob('*') if x.suffix in ('.md', '.png')]
  assert len([x for x in made if x.suffix == '.png']) == 14
  for path in made:
    committed = DOCS / path.relative_to(tmp_path)
    if path.suffix == '.md':
      assert path.read_text('utf-8') == committed.read_text('utf-8')
      continue
    # Not byte for byte: other versions of matplotlib place text differently.
    one, two = (
      np.asarray(Image.open(io.BytesIO(x.read_bytes())).convert('L'), float)
      for x in (path, committed)
    )
    assert one.shape == two.shape and np.abs(one - two).mean() < 2, path.name


@pytest.mark.parametrize(
  'link',
  [
    'data.md#train-on-your-own-folder',
    'planning.md#which-layout-for-32-h200',
    'training.md#what-a-resumed-run-guarantees',
  ],
)
def test_the_readme_leads_to_answers_in_one_step(link):
  assert f'(docs/{link})' in (ROOT / 'README.md').read_text('utf-8')
