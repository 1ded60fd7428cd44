"""Tables and pages of bench sample, from given records."""

import dataclasses

import pytest

from sana_jax.errors import UserError
from sana_jax.tools.bench import sample_report as report
from sana_jax.tools.bench.request import Request, request
from sana_jax.tools.bench.sample_report import Record, SAMPLING
from sana_jax.tools.report import Run, to_json

pytestmark = pytest.mark.fast

RUN = Run(
  [
    Record('denoise', 'sana_jax', [2.5, 2.0, 2.25], 9.0, int(1e12), 2**31),
    Record('denoise', 'diffusers', [4.0, 5.0], 4.5, 0, 2**30),
    Record('decode', 'sana_jax', [2.0], 3.0, int(4e11), 2**30, 2**29),
    Record('decode', 'diffusers', [1.0], 1.0, 0, 2**30, 2**28),
  ],
  'a chip',
  '2026-01-01',
  {'jax': '1'},
  'sana-jax bench sample',
  {
    'matmul_flops': 2e12,
    'request': dataclasses.asdict(
      Request('sana_600m_512', 512, 512, steps=2, batch=4)
    ),
  },
)


def test_a_row_has_rate_share_memory_and_ratio():
  rows = report.rows(RUN)
  assert rows[1] == ('denoise', 'sana_jax', '2', '2', '0.5', '25%', '2.00', '')
  assert rows[2] == ('denoise', 'diffusers', '4', '1', '', '', '1.00', '0.50')
  assert rows[3][6] == '0.50'  # The device's own memory.
  # 4 seconds of both stages against 5; the larger memory of the two.
  assert rows[5] == ('whole', 'sana_jax', '4', '1', '0.35', '18%', '0.50', '')
  assert rows[6][2:] == ('5', '0.8', '', '', '0.25', '0.80')


def test_the_page_opens_with_the_ratio_of_the_whole_request():
  assert report.result([RUN]) == (
    'Measured on a chip, sana_jax takes 0.80 of the time of diffusers '
    '(sana_600m_512, 512 px, 2 steps, whole).'
  )
  _, first, picture, *_ = SAMPLING.markdown([RUN], 'a.png').split('\n\n')
  assert ' '.join(first.split()) == report.result([RUN])
  assert picture.endswith('](a.png)')
  alone = dataclasses.replace(RUN, records=RUN.records[:1])
  assert report.result([alone]).startswith('Seconds of each stage')
  groups = report.bars([RUN]).groups
  assert groups['sana_600m_512, 512 px, 2 steps: decode'] == {
    'sana_jax': 2.0,
    'diffusers': 1.0,
  }


def test_single_stage_report_has_no_total_row():
  one = dataclasses.replace(RUN, records=RUN.records[:2])
  assert [r[0] for r in report.rows(one)] == ['stage', 'denoise', 'denoise']


def test_json_and_page_hold_everything():
  assert SAMPLING.from_json(to_json(RUN)) == RUN
  page = SAMPLING.markdown([RUN])
  assert '## sana_600m_512, 512 x 512 px, 2 steps, batch 4' in page
  assert '| denoise | diffusers | 4 | 1 |  |  | 1.00 | 0.50 |' in page
  for text in ('{}', 'no json', '[]', '1', '[' * 10**5, '1' * 5000, b'\xff'):
    with pytest.raises(UserError) as error:
      SAMPLING.from_json(text)
    assert (error.value.key, error.value.allowed) == (
      '--render',
      ('sana-jax bench',),
    )


def test_requests_are_checked():
  assert request('sana_600m_1024', None).height == 1024
  assert request('sana_600m_512', 96, batch=2).latent_shape == (2, 3, 3, 32)
  assert request('sana_600m_512', None).steps == 20
  few = request('sana_sprint_600m_1024', None)
  assert (few.steps, few.of_teacher().steps) == (2, 20)
  assert few.config('transformer')['guidance_embeds']
  assert not few.of_teacher().config('transformer')['guidance_embeds']
  with pytest.raises(UserError) as error:
    request('sana_600m_512', 100)
  assert (error.value.key, error.value.value) == ('--size', 100)
  assert error.value.allowed == 'multiples of 32'
  with pytest.raises(UserError) as error:
    request('gemma2_2b_it', None)
  assert (error.value.key, error.value.value) == ('--model', 'gemma2_2b_it')
  with pytest.raises(UserError) as error:
    request('sana_600m', None)
  assert (error.value.key, error.value.value) == ('model', 'sana_600m')
