"""NVILA as a scorer: folders, options, and the official rule."""

import itertools
import json
import shutil

from judge_folder import NO, ROOT, SIDE, write, YES
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.evaluation.nvila import judge, make, scorer
from sana_jax.evaluation.nvila.judge import Answer
from sana_jax.inference import verify
from sana_jax.inference.verify import Candidate, Pool

IDS, OTHER = (1, 0), 7


class Stub:
  """A judge whose answers are in the first pixel of a picture."""

  ids = IDS

  def __init__(self, answers):
    self.known, self.asked = answers, 0

  def answers(self, prompts, images, batch):
    self.asked += len(prompts)
    return [self.known[int(image[0, 0, 0])] for image in images]


def answers(seed, count):
  """Random answers with many ties."""
  rng = np.random.default_rng(seed)
  token = rng.choice([1, 0], count)
  yes, no = rng.integers(-3, 4, (2, count))
  return [Answer(int(t), float(y), float(n)) for t, y, n in zip(token, yes, no)]


def pictures(count):
  images = np.zeros((count, 1, 1, 3), np.uint8)
  images[:, 0, 0, 0] = np.arange(count)
  return images


def official(first, second):
  """The rule of nvila_sana_pick.py, of two answers."""
  says = {1: 'yes', 0: 'no'}
  r1, r2 = (says.get(x.token, x.token) for x in (first, second))
  if r1 == r2:
    if r1 == 'yes':
      return first.yes > second.yes
    return first.no < second.no
  return r1 == 'yes'


@pytest.mark.fast
def test_comparisons_are_those_of_the_official_rule_ties_included():
  some = [
    Answer(token, yes, no)
    for token in (*IDS, OTHER, OTHER + 1)
    for yes in (0.0, 1.0)
    for no in (0.0, 1.0)
  ]
  for a, b in itertools.product(some, some):
    assert scorer.first_wins(a, b, IDS) == official(a, b), (a, b)


@pytest.mark.fast
def test_scores_have_the_order_of_the_rule():
  for a, b in itertools.product(answers(0, 60), repeat=2):
    first, second = (scorer.score_of(x, IDS) for x in (a, b))
    assert (first > second) == official(a, b), (a, b)


@pytest.mark.fast
@pytest.mark.parametrize('seed', range(5))
def test_the_best_score_is_that_of_the_tournaments_winner(seed):
  given = answers(seed, 16)
  files = list(range(16))
  while len(files) > 1:
    files = [
      a if official(given[a], given[b]) else b
      for a, b in zip(files[::2], files[1::2])
    ]
  images = pictures(16)
  stub = Stub(given)
  scores = scorer.of_judge(stub, scorer.Options('x'))(['p'] * 16, images)
  assert scores[files[0]] == scores.max()
  compare = scorer.of_judge(stub, scorer.Options('x', tournament=True))
  pool = Pool('p', 16, 1, tuple(map(Candidate, range(16), images)))
  (pool,) = verify.narrow(compare, [pool])
  assert [c.number for c in pool.candidates] == files


@pytest.mark.fast
def test_a_tournament_judges_each_picture_once():
  stub = Stub(answers(0, 8))
  compare = scorer.of_judge(stub, scorer.Options('x', tournament=True))
  pool = Pool('p', 8, 2, tuple(map(Candidate, range(8), pictures(8))))
  (pool,) = verify.narrow(compare, [pool])
  assert len(pool.candidates) == 2 and stub.asked == 8
  assert '8 pictures' in compare.cost()


@pytest.mark.fast
def test_a_single_odd_answer_counts_as_no():
  given = [
    Answer(OTHER, 9.0, 1.0),
    Answer(0, 0.0, 2.0),
    Answer(1, -5.0, 0.0),
  ]
  score = scorer.of_judge(Stub(given), scorer.Options('x'))
  assert np.argsort(score(['p'] * 3, pictures(3))).tolist() == [1, 0, 2]
  assert '1 else' in score.cost()


@pytest.mark.fast
@pytest.mark.parametrize(
  'name, allowed',
  [
    ('nvila:', 'nvila:DIR'),
    ('nvila:x?tournament=2', ('tournament', 'batch', 'dtype')),
    ('nvila:x?batch=0', ('tournament', 'batch', 'dtype')),
    ('nvila:x?dtype=int8', ('tournament', 'batch', 'dtype')),
    ('nvila:x?other=1', ('tournament', 'batch', 'dtype')),
  ],
)
def test_invalid_options_are_refused(name, allowed):
  with pytest.raises(UserError) as error:
    make(name)
  assert (error.value.key, error.value.value) == ('--scorer', name)
  assert error.value.allowed == allowed


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.integers(256, size=(5, 40, 40, 3)).astype(np.uint8)


@pytest.mark.long
def test_both_layouts_give_finite_and_equal_scores(tmp_path, images):
  prompts = ['a dog', 'two <image> cats', 'a', 'b', 'a much longer prompt']
  found = []
  for flat in (False, True):
    folder = write(tmp_path / str(flat), flat=flat, answer='either')
    score = make(f'nvila:{folder}?dtype=float32&batch=2')
    found.append(score(prompts, images))
  assert np.isfinite(found[0]).all() and len(set(found[0])) == 5
  np.testing.assert_array_equal(*found)
  alone = [score([p], i[None])[0] for p, i in zip(prompts, images)]
  np.testing.assert_array_equal(alone, found[1])


@pytest.mark.long
@pytest.mark.parametrize('token, sign', [(YES, 1), (NO, -1)])
def test_yes_and_no_are_read_from_the_first_token(
  tmp_path, images, token, sign
):
  folder = write(tmp_path / 'judge', answer=token)
  scores = make(f'nvila:{folder}')(['a'] * 5, images)
  assert (np.sign(scores) == sign).all()


@pytest.mark.long
def test_a_judge_that_answers_neither_is_refused(tmp_path, images):
  folder = write(tmp_path / 'judge', answer=ord('z') - ord('!'))
  with pytest.raises(UserError) as error:
    make(f'nvila:{folder}')(['a'] * 5, images)
  assert error.value.allowed == ('yes', 'no')
  assert error.value.key == '--scorer' and len(error.value.value) == 1


@pytest.mark.long
@pytest.mark.parametrize(
  'root',
  [
    {'image_aspect_ratio': 'dynamic'},
    {'s2': True, 's2_scales': '28,56', 's2_max_split_size': SIDE},
    {
      'image_aspect_ratio': 'dynamic_s2',
      'dynamic_s2': True,
      's2_scales': '28,56',
      's2_resize_output_to_scale_idx': -1,
    },
  ],
)
def test_every_way_of_cutting_a_picture_gives_answers(tmp_path, root):
  loaded = judge.load(str(write(tmp_path / 'judge', root=root)), np.float32)
  images = np.random.default_rng(0).integers(256, size=(3, 60, 90, 3))
  images = images.astype(np.uint8)
  found = loaded.answers(['a', 'b', 'a'], images[[0, 0, 1]], batch=2)
  assert np.isfinite([(x.yes, x.no) for x in found]).all()
  assert len({x.yes for x in found}) == 3  # Prompt and picture both matter.


def test_a_folder_without_a_projector_is_refused(tmp_path):
  folder = write(tmp_path / 'judge')
  shutil.rmtree(folder / 'mm_projector')
  with pytest.raises(UserError) as error:
    make(f'nvila:{folder}')
  assert error.value.key == 'mm_projector'
  root = {**ROOT, 'mm_projector_cfg': {'mm_projector_type': 'identity'}}
  (folder / 'config.json').write_text(json.dumps(root))
  with pytest.raises(UserError) as error:
    make(f'nvila:{folder}')
  assert error.value.key == 'mm_projector_type'
  assert error.value.value == 'identity'


@pytest.mark.long
def test_a_folder_without_weights_or_settings_is_refused(tmp_path):
  folder = write(tmp_path / 'judge')
  (folder / 'mm_projector' / 'model.safetensors').unlink()
  with pytest.raises(UserError) as error:
    make(f'nvila:{folder}')
  assert 'mm_projector' in str(error.value)
  for name in 'vision_tower/preprocessor_config.json', 'config.json':
    folder = write(tmp_path / 'other')
    (folder / name).unlink()
    with pytest.raises(UserError) as error:
      make(f'nvila:{folder}')
    assert str(error.value.value) == str(folder / name)


def test_the_picture_size_of_the_files_must_agree(tmp_path):
  folder = write(tmp_path / 'judge')
  size = {'size': {'height': SIDE + 1, 'width': SIDE}}
  path = folder / 'vision_tower' / 'preprocessor_config.json'
  path.write_text(json.dumps(size))
  with pytest.raises(UserError) as error:
    make(f'nvila:{folder}')
  assert error.value.key == 'size' and error.value.allowed == (SIDE,)
