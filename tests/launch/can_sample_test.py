"""Which published checkpoints can be sampled: the zoo's table and refusals."""

import json
import re

import pytest

from sana_jax.errors import UserError
from sana_jax.inference.pipeline import Pipeline
from sana_jax.weights import zoo

pytestmark = pytest.mark.fast


def column(out, name):
  """A column of the zoo's table, by the name of the row."""
  head, *rows = out.split('\n\n')[0].splitlines()
  start = re.search(rf'\b{name}\b', head).start()
  return {row.split()[0]: row[start:].split()[0] for row in rows}


def test_the_table_shows_what_can_be_sampled(cli):
  _, out, _ = cli('zoo')
  found = column(out, 'sample')
  assert {'yes', 'part'} == set(found.values())
  expected = {
    'sana_600m_512': 'yes',
    'sana_sprint_600m_1024': 'yes',
    'sana_sprint_600m_1024_teacher': 'yes',
    'sana_600m_1024_controlnet_hed': 'yes',
    'dc_ae_f32c32_sana_1.0': 'part',
    'gemma2_2b_it': 'part',
  }
  assert {name: found[name] for name in expected} == expected
  assert re.search('(?m)^sample: .*yes', out)


def test_programs_and_details_have_it_too(cli):
  _, out, _ = cli('zoo', '--json')
  assert {r['name'] for r in json.loads(out) if r['can_sample']} == {
    e.name for e in zoo.ENTRIES if not e.is_part
  }
  _, out, _ = cli('zoo', 'sana_600m_1024_controlnet_hed')
  assert re.search('sample +yes', out)
  _, out, _ = cli('zoo', 'sana_600m_512')
  assert re.search('sample +yes', out)


@pytest.mark.parametrize(
  'name', [e.name for e in zoo.ENTRIES if not e.can_sample]
)
def test_others_are_refused_before_a_download(name):
  with pytest.raises(UserError) as refused:
    Pipeline.from_pretrained(name)
  assert refused.value.key == 'model'
  assert 'sana-jax zoo' in str(refused.value)


def test_a_hub_id_of_these_is_refused_too(refused):
  hub_id = zoo.get('gemma2_2b_it').hub_id
  common = ['--model', hub_id, '--out', 'o', '--prompt', 'x']
  assert hub_id in refused('sample', *common)
