"""sana-jax sample with a folder of NVILA as its scorer."""

import json
import shutil

import judge_folder
import pytest

pytestmark = pytest.mark.long


@pytest.fixture
def argv(tiny_sana, tmp_path):
  return [
    *('sample', '--model', tiny_sana, '--steps', 2, '--cpu-devices', 1),
    *('--prompt', 'a cat', '--candidates', 4, '--num-images', 2),
    *('--out', tmp_path / 'out'),
  ]


def listed(out):
  lines = (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines]


def test_the_best_candidates_are_kept_with_their_scores(cli, argv, tmp_path):
  judge = judge_folder.write(tmp_path / 'judge', answer='either')
  name = f'nvila:{judge}?dtype=float32'
  code, text, err = cli(*argv, '--scorer', name)
  assert code == 0, err
  assert f'{name} judged 4 pictures' in text
  first, second = listed(tmp_path / 'out')
  assert first['score'] >= second['score'] and first['scorer'] == name
  argv[-1] = tmp_path / 'won'
  code, text, err = cli(*argv, '--scorer', f'{name}&tournament=1')
  assert code == 0, err
  won = listed(tmp_path / 'won')
  assert 'score' not in won[0] and len(won) == 2
  assert first['number'] in [x['number'] for x in won]


def test_a_folder_without_its_projector_costs_nothing(refused, argv, tmp_path):
  judge = judge_folder.write(tmp_path / 'judge')
  shutil.rmtree(judge / 'mm_projector')
  message = refused(*argv, '--scorer', f'nvila:{judge}')
  assert message.key == 'mm_projector'
  assert not (tmp_path / 'out').exists()


def test_a_judge_that_answers_neither_loses_nothing(
  cli, raised, argv, tmp_path
):
  judge = judge_folder.write(tmp_path / 'judge', answer=40)
  code, _, err = cli(*argv, '--scorer', f'nvila:{judge}')
  assert code == 2 and 'Traceback' not in err
  (error,) = raised
  assert (error.key, error.allowed) == ('--scorer', ('yes', 'no'))
  assert not list((tmp_path / 'out').glob('*.png'))
  judge_folder.write(judge, answer='either')
  assert cli(*argv, '--scorer', f'nvila:{judge}')[0] == 0
  assert len(listed(tmp_path / 'out')) == 2
