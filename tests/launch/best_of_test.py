"""sana-jax sample --candidates: the best of N, also after interruptions."""

import json
import os
import shutil

import numpy as np
from PIL import Image
import pytest

from sana_jax.locks import process_group

PROMPTS = 'a red circle left of a blue square', 'three green stars'
SHARED = ['--steps', '2', '--batch-size', '8']  # One compiled program.
MODULE = """
import numpy as np

def redness(prompts, images):
  return images[..., 0].mean(axis=(1, 2))

def redder(prompts, first, second):
  return redness(prompts, first) >= redness(prompts, second)

def blueness(prompts, images):
  return images[..., 2].mean(axis=(1, 2))

def flat(prompts, images):
  return 1.0
"""


def listed(out):
  lines = (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines]


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image).astype(int)


def contents(out):
  return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.fixture(scope='module')
def chosen(tmp_path_factory):
  """The two best of eight candidates of each prompt, by the shipped model."""
  from sana_jax.launch import cli

  out = tmp_path_factory.mktemp('best') / 'out'
  argv = [
    'sample',
    '--model',
    'shapes',
    *SHARED,
    '--seed',
    '1',
    *(x for p in PROMPTS for x in ('--prompt', p)),
  ]
  choice = ['--candidates', '8', '--scorer', 'shapes', '--num-images', '2']
  assert cli.main([*argv, *choice, '--out', str(out)]) == 0
  every = out.with_name('every')
  assert cli.main([*argv, '--num-images', '8', '--out', str(every)]) == 0
  return [*argv, *choice], out, every


@pytest.mark.long
def test_the_best_of_all_candidates_are_kept_best_first(chosen):
  from sana_jax.evaluation import shapes_scorer

  _, out, every = chosen
  made, candidates = listed(out), listed(every)
  spreads = []
  assert [x['file'] for x in made] == sorted(p.name for p in out.glob('0*.png'))
  for i, prompt in enumerate(PROMPTS):
    images = np.stack(
      [pixels(every / x['file']) for x in candidates if x['prompt'] == prompt]
    ).astype(np.uint8)
    scores = shapes_scorer.score([prompt] * 8, images)
    best = made[2 * i : 2 * i + 2]
    assert [x['rank'] for x in best] == [0, 1]
    # Pictures in other batches are rounded differently.
    np.testing.assert_allclose(
      [x['score'] for x in best], np.sort(scores)[::-1][:2], atol=0.01
    )
    assert best[0]['score'] >= best[1]['score']
    spreads.append(np.ptp(scores))
    assert best[0]['score'] >= scores[0] - 0.01  # The only one, without.
    for x in best:
      assert x['candidates'] == 8 and x['scorer'] == 'shapes'
      difference = pixels(out / x['file']) - images[x['number']]
      assert np.abs(difference).max() <= 1
  assert max(spreads) > 0.02  # There was something to choose.


@pytest.mark.long
def test_a_kept_picture_records_how_it_was_chosen(chosen):
  _, out, _ = chosen
  first = listed(out)[0]
  with Image.open(out / first['file']) as image:
    about = image.text
  for key in ('number', 'score', 'rank', 'candidates', 'scorer', 'prompt'):
    assert about[key] == str(first[key])


@pytest.mark.long
def test_a_run_that_lost_pictures_is_completed(chosen, tmp_path, cli):
  argv, out, _ = chosen
  again = tmp_path / 'again'
  shutil.copytree(out, again)
  names = [x['file'] for x in listed(out)]
  (again / names[1]).unlink()
  (again / names[2]).unlink()
  # State left by a killed run.
  with (again / 'results.jsonl').open('ab') as file:
    file.write(b'{"file": "000')
  kept = {
    name: (again / name).stat().st_mtime_ns
    for name in names
    if (again / name).exists()
  }
  assert cli(*argv, '--out', again)[0] == 0
  for name, time in kept.items():  # Not generated again.
    assert (again / name).stat().st_mtime_ns == time
  assert contents(again) == contents(out)


@pytest.mark.long
def test_other_choices_are_not_mixed(chosen, cli):
  argv, out, every = chosen
  before = contents(out)
  plain = argv[: argv.index('--candidates')]
  for flags, there, expected in (
    ([*argv, '--candidates', '4'], out, 'candidates=8 and not 4'),
    (plain, out, 'candidates=8 and not None'),
    (argv, every, 'candidates=None and not 8'),
  ):
    code, _, err = cli(*flags, '--out', there)
    assert code == 2
    assert f'made with {expected}; choose another --out' in err
  assert contents(out) == before


@pytest.mark.long
def test_shards_hold_the_chosen(chosen, tmp_path, cli):
  argv, out, _ = chosen
  for _ in range(2):
    assert cli(*argv, '--shard-size', '2', '--out', tmp_path)[0] == 0
    assert listed(tmp_path) == listed(out)
  assert sorted(p.name for p in tmp_path.glob('*.tar')) == [
    'shard-000000.tar',
    'shard-000001.tar',
  ]


@pytest.mark.long
def test_each_process_takes_whole_prompts(chosen, tmp_path, cli, monkeypatch):
  import jax

  argv, out, _ = chosen
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  monkeypatch.setattr(process_group, 'current', process_group.Processes)
  made = []
  for index in range(3):  # The last process has nothing to do.
    monkeypatch.setattr(jax, 'process_index', lambda i=index: i)
    assert cli(*argv, '--out', tmp_path)[0] == 0
    file = tmp_path / f'results-{index:05d}-of-00003.jsonl'
    lines = file.read_text().splitlines() if file.exists() else []
    assert len(lines) == (2 if index < 2 else 0)
    made += [json.loads(line) for line in lines]
  assert [(x['file'], x['number']) for x in made] == [
    (x['file'], x['number']) for x in listed(out)
  ]


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """Name of a user's module."""
  name = f'mine_{os.path.basename(tmp_path).replace("-", "_")}'
  (tmp_path / f'{name}.py').write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  return name


@pytest.mark.long
def test_ones_own_scorer_or_comparator_chooses(mine, cli, tiny_sana, tmp_path):
  argv = [
    'sample',
    '--model',
    tiny_sana,
    '--steps',
    2,
    '--batch-size',
    4,  # The candidates of a prompt are in two batches.
    '--prompt',
    'a cat',
    '--prompt',
    'a dog',
  ]
  every = tmp_path / 'every'
  assert cli(*argv, '--num-images', 5, '--out', every)[0] == 0
  red = np.array(
    [pixels(every / x['file'])[..., 0].mean() for x in listed(every)]
  ).reshape(2, 5)
  for function in ('redness', 'redder'):
    out = tmp_path / function
    choice = '--candidates', 5, '--scorer', f'{mine}:{function}'
    assert cli(*argv, *choice, '--out', out)[0] == 0
    made = listed(out)
    assert [x['number'] for x in made] == red.argmax(axis=1).tolist()
    assert ['score' in x for x in made] == [function == 'redness'] * 2


@pytest.mark.long
def test_the_mean_rank_of_two_judges_decides(mine, cli, tiny_sana, tmp_path):
  argv = ['sample', '--model', tiny_sana, '--steps', 2, '--batch-size', 4]
  argv += ['--prompt', 'a cat']
  every, out = tmp_path / 'every', tmp_path / 'out'
  assert cli(*argv, '--num-images', 5, '--out', every)[0] == 0
  images = np.stack([pixels(every / x['file']) for x in listed(every)])
  ranks = [
    (-images[..., channel].mean(axis=(1, 2))).argsort().argsort()
    for channel in (0, 2)
  ]
  judges = [f'{mine}:{x}' for x in ('redness', 'blueness')]
  choice = [x for name in judges for x in ('--scorer', name)]
  argv += ['--candidates', 5, '--num-images', 2]
  assert cli(*argv, *choice, '--out', out)[0] == 0
  made = listed(out)
  want = np.mean(ranks, axis=0) + 1
  assert [x['number'] for x in made] == want.argsort(kind='stable')[:2].tolist()
  for x in made:
    assert x['mean_rank'] == want[x['number']]
    for name, channel in zip(judges, (0, 2)):
      mean = images[x['number'], ..., channel].mean()
      np.testing.assert_allclose(x[f'score: {name}'], mean, atol=1)
  curve = json.loads((out / 'candidates.json').read_text())
  assert curve['candidates'] == [1, 2, 4, 5] and set(curve['judges']) == {
    *judges
  }
  assert (out / 'candidates.png').is_file()
  pairs = [*choice, '--scorer', f'{mine}:redder']
  code, _, err = cli(*argv, *pairs, '--out', tmp_path / 'pairs')
  assert code == 2 and f'--scorer={mine}:redder' in err


@pytest.mark.parametrize(
  'flags, key',
  [
    (
      ['--candidates', '2', '--num-images', '3', '--scorer', 'shapes'],
      '--candidates',
    ),
    (['--candidates', '4'], '--scorer'),
    (['--candidates', '0'], '--candidates'),
    (['--scorer', 'clip'], '--scorer'),
    (['--scorer', 'textwrap:dedent'], '--scorer'),
    (['--prompt', 'a cat', '--scorer', 'shapes'], 'prompt'),
  ],
)
def test_an_invalid_choice_is_reported_before_anything_is_made(
  flags, key, refused, tmp_path
):
  out = tmp_path / 'out'
  argv = 'sample', '--model', 'shapes', '--prompt', 'a star', '--out', out
  assert refused(*argv, *flags).key == key
  assert not out.exists()


@pytest.mark.long
def test_a_scorer_that_gives_no_scores_is_reported(
  mine, cli, tiny_sana, tmp_path
):
  out = tmp_path / 'out'
  code, _, err = cli(
    'sample',
    '--model',
    tiny_sana,
    '--prompt',
    'a cat',
    '--steps',
    2,
    '--candidates',
    4,
    '--scorer',
    f'{mine}:flat',
    '--out',
    out,
  )
  assert code == 2
  assert err.splitlines()[-1] == (
    'sana-jax: error: The scorer returned an array of shape () for 4 prompts; '
    'it must return one value for each.'
  )
  assert not out.exists()


@pytest.mark.long
def test_lines_that_the_scorer_cannot_use_are_skipped(cli, tmp_path):
  file, out = tmp_path / 'prompts.jsonl', tmp_path / 'out'
  file.write_text(
    '{"prompt": "a cat"}\n{"prompt": "a red star"}\n'
    '{"prompt": "a star", "num_images": 9}\n'
  )
  code, _, err = cli(
    'sample',
    '--model',
    'shapes',
    '--prompts',
    file,
    '--out',
    out,
    *SHARED,
    '--candidates',
    '8',
    '--scorer',
    'shapes',
    '--max-bad-fraction',
    '.7',
  )
  assert code == 0, err
  assert "line 1: The scorer shapes cannot read 'a cat'" in err
  assert 'line 3: --candidates is 8' in err
  assert [x['file'] for x in listed(out)] == ['00001-0-a-red-star.png']
