"""sana-jax bench plan: predictions beside measurements, or one sentence."""

import json

import pytest

from sana_jax.benchmark import predicted
from sana_jax.benchmark.predicted import Record


@pytest.fixture
def asked(monkeypatch):
  """What processes are asked for; they answer without running."""
  found = []

  def records(configs, repeats):
    for name, config in configs:
      found.append((name, config, repeats))
      if config.batch_size == 13:
        yield Record(name, config.dtype, 13, failed='out of memory')
      else:
        yield Record(name, config.dtype, config.batch_size, 'a chip', [2.],
                     predicted=1., needed=2**30, used=2**30)
  monkeypatch.setattr(predicted, 'records', records)
  return found


def test_configs_are_changed_measured_printed_and_written(
    cli, asked, tmp_path):
  names = 'shapes,shapes:quick+batch_size=8+model.remat=full'
  code, out, err = cli(
    'bench', 'plan', '--configs', names, '--repeats', '2', '--note', 'Quiet.',
    '--out', tmp_path)
  assert code == 0, err
  (_, plain, repeats), (name, changed, _) = asked
  assert plain.batch_size == 32 and repeats == 2
  assert name == 'shapes:quick+batch_size=8+model.remat=full'
  assert (changed.batch_size, changed.model.remat, changed.model.width) == (
    8, 'full', 96)
  assert [line.split()[0] for line in out.splitlines()[:4]] == [
    'a', 'config', 'shapes', name]
  assert '2/2 shapes:quick' in err
  found = json.loads((tmp_path / 'plan-a-chip.json').read_text())
  assert found['command'] == (
    f'sana-jax bench plan --configs {names} --repeats 2')
  page = (tmp_path / 'plan.md').read_text()
  assert '| -50% | 1.000 | 1.000 | +0.0% |' in page and 'Quiet.' in page
  (tmp_path / 'plan.md').unlink()
  assert cli('bench', 'plan', '--render', tmp_path)[0] == 0
  assert (tmp_path / 'plan.md').read_text() == page


def test_any_task_can_be_asked_for(cli, asked, tmp_path):
  names = ['shapes_dc_ae', 'shapes_text_encoder']
  assert cli('bench', 'plan', '--configs', ','.join(names))[0] == 0
  assert [name for name, *_ in asked] == names


def test_four_configs_that_differ_are_the_default(cli, asked, tmp_path):
  assert cli('bench', 'plan')[0] == 0
  assert len(asked) == 4
  configs = [config for _, config, _ in asked]
  assert len({c.model.width for c in configs}) == 3
  assert len({c.batch_size for c in configs}) >= 3
  assert len({c.model.sample_size for c in configs}) == 3
  assert {c.model.remat for c in configs} >= {'none', 'full'}
  assert {c.dtype for c in configs} == {'float32'}


def test_where_one_fails_the_others_are_written(cli, asked, tmp_path):
  code, out, _ = cli('bench', 'plan', '--configs',
                     'shapes+batch_size=13,shapes', '--out', tmp_path)
  assert code == 0 and 'out of memory' in out
  code, _, err = cli('bench', 'plan', '--configs', 'shapes+batch_size=13',
                     '--out', tmp_path / 'none')
  assert code == 2 and 'No step ran: out of memory' in err
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize('flags, said', [
  (['--configs', 'circles'], '--config=circles: there is no such file'),
  (['--configs', 'shapes:slow'], "no variant 'slow'"),
  (['--configs', ''], '--configs: '),
  (['--configs', 'shapes+batch=8'], 'There is no config.batch'),
  (['--configs', 'shapes+batch_size=0'], 'config.batch_size=0 must be'),
  (['--repeats', '0'], "--repeats: '0' is not allowed"),
  (['--out', '/dev/null/x'], '--out=/dev/null/x cannot be made'),
  (['--render', 'nowhere'], 'nowhere has no JSON file of this command'),
])
def test_a_bad_value_is_one_sentence(flags, said, refused):
  assert said in refused('bench', 'plan', *flags)
