"""Pictures and pages of plans that fit, do not fit, and are invalid."""

import dataclasses
import html.parser
import io

from PIL import Image
import pytest

from sana_jax.analysis.buffers import Temporary
from sana_jax.analysis.collectives import Collective
from sana_jax.analysis.work import Work
from sana_jax.tools.plan import page, pictures, tables
from sana_jax.tools.plan.report import Plan

pytestmark = pytest.mark.fast

GIB = 2**30
PLAN = Plan(
  'fsdp',
  'v5e:4x4',
  'train',
  {'data': 1, 'fsdp': 16},
  64,
  1000,
  usable=15.75 * GIB,
  memory={'parameters': GIB, 'temporaries': 9 * GIB},
  model_flops=1e15,
  hardware_flops=1.2e15,
  work=[Work(8e13, 1e11)],
  collectives=[Collective('all-gather', 'fsdp', 'ici', 4, True, 7, 1e9)],
  temporaries=[Temporary(GIB, 'bf16[4,1024]', 'sana.py:1 <dot>')],
)
PLANS = [
  PLAN,
  dataclasses.replace(PLAN, layout='dp', memory={'parameters': 20 * GIB}),
  dataclasses.replace(
    PLAN, layout='none', problem='It does not divide.', memory={}
  ),
]


@pytest.mark.parametrize('draw', [pictures.memory_bars, pictures.scaling_curve])
def test_a_plot_is_a_nonempty_png(draw):
  image = Image.open(io.BytesIO(draw(PLANS))).convert('RGB')
  assert image.width > 800
  assert len(image.getcolors(maxcolors=10**6)) > 20


class Tags(html.parser.HTMLParser):
  """Counts tags and checks that they are closed."""

  def __init__(self):
    super().__init__()
    self.open, self.count, self.sources = [], {}, []

  def handle_starttag(self, tag, attrs):
    self.count[tag] = self.count.get(tag, 0) + 1
    if tag not in ('meta', 'img'):
      self.open.append(tag)
    self.sources += [v for k, v in attrs if k in ('src', 'href')]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_a_page_is_self_contained():
  text = page.page('a <title>', PLANS, ['a note & more'], 'sana-jax plan')
  tags = Tags()
  tags.feed(text)
  assert not tags.open
  assert tags.count['img'] == 2 and tags.count['details'] == 1
  assert all(s.startswith('data:image/png;base64,') for s in tags.sources)
  assert 'a &lt;title&gt;' in text and 'a note &amp; more' in text
  assert 'sana.py:1 &lt;dot&gt;' in text


def test_a_page_opens_with_the_fastest_layout_and_its_pictures():
  result = (
    '1 of 3 layouts fits on v5e:4x4; the fastest is fsdp (fsdp=16), predicted '
    'at '
  )
  opening = page.page('title', PLANS, [], 'a command').partition('<table>')[0]
  assert f'<strong>{result}' in opening and opening.count('<img') == 2
  assert '10.00 of 15.75 GiB a device.</strong>' in opening
  text = tables.markdown('title', PLANS, [], 'a command', None, ['memory.png'])
  head = ' '.join(text.partition('*Compiled*')[0].split())
  assert head.startswith(f'# title {result}') and '](memory.png)' in head
  assert tables.result(PLANS[1:]) == 'None of 2 layouts fits on v5e:4x4.'


def test_pictures_are_drawn_of_what_there_is():
  assert list(pictures.all_of(PLANS)) == ['memory.png', 'scaling.png']
  assert list(pictures.all_of(PLANS[1:])) == ['memory.png']
  assert not pictures.all_of(PLANS[2:])


def test_a_table_has_a_row_each():
  head, *rows = tables.rows(PLANS)
  assert head == tables.HEAD and {len(row) for row in rows} == {len(head)}
  assert [row[0] for row in rows] == ['fsdp', 'dp', 'none']
  assert rows[1][5] == '4.25 GiB too large' and rows[2][5] == 'invalid'


def test_a_layout_that_does_not_fit_lists_changes_that_do():
  large = PLANS[1]
  message = tables.short_of(large, [('config.batch_size=32', PLAN)])
  assert message == (
    'dp needs 20.00 GiB of 15.75: 4.25 GiB too many; largest are the '
    'parameters, 20.00 GiB (of these bf16[4,1024], 1.00 GiB, sana.py:1 <dot>); '
    'what fits: config.batch_size=32 (10.00 GiB).'
  )
  assert 'no change tried makes' in tables.short_of(large, [])


def test_a_page_of_markdown_has_the_details_of_what_fits():
  text = tables.markdown('title', PLANS, ['note'], 'sana-jax plan')
  assert '| all-gather | fsdp | ici | 7 | 1000.0 | 5.00 | yes |' in text
  assert text.count('## fsdp') == 1 and '## dp' not in text
  assert '*predicted* by the data sheet of the v5e' in text
