"""--scorer clip:DIR: scores in batches of any size, and what is refused.

tests/tools/parity/clip_test.py compares the scores with transformers'.
"""

import json

import clip_files
import numpy as np
import pytest

from sana_jax.errors import UserError
from sana_jax.evaluation import clip_scorer, scorers

PROMPTS = ['a red cat', 'a ball', 'the cat']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return clip_files.write(tmp_path_factory.mktemp('clip'))


@pytest.fixture(scope='module')
def scorer(folder):
  return scorers.load(f'clip:{folder}')


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(1).integers(0, 256, (35, 24, 20, 3), np.uint8)


@pytest.mark.long
def test_a_score_does_not_depend_on_its_batch(scorer, images):
  """35 pictures are more than one call of the model takes."""
  prompts = [PROMPTS[i % 3] for i in range(35)]
  scores = scorer(prompts, images)
  assert scores.shape == (35,) and np.ptp(scores) > 1e-3
  for i in 0, 4, 32, 34:
    alone = scorer(prompts[i : i + 1], images[i : i + 1])
    np.testing.assert_allclose(alone, scores[i : i + 1], rtol=1e-5)


@pytest.mark.long
def test_features_of_a_prompt_are_computed_once(folder, images, monkeypatch):
  read, encode = [], clip_scorer.clip_tokenizer.encode

  def counted(tokenizer, prompts, length):
    read.extend(prompts)
    return encode(tokenizer, prompts, length)

  monkeypatch.setattr(clip_scorer.clip_tokenizer, 'encode', counted)
  monkeypatch.setattr(clip_scorer, '_KNOWN', 2)
  scorer = scorers.load(f'clip:{folder}')
  a, b, c = PROMPTS
  first = scorer([a, b, a, a], images[:4])
  np.testing.assert_array_equal(scorer([a, b, a, a], images[:4]), first)
  assert read == [a, b]
  scorer([a, c], images[:2])  # One more than are kept.
  assert read == [a, b, a, c]
  np.testing.assert_allclose(scorer([b], images[1:2]), first[1:2], rtol=1e-5)


@pytest.mark.long
def test_a_prompt_is_checked_before_it_is_drawn(scorer):
  scorers.check(scorer, 'red ' * 500)
  with pytest.raises(UserError) as error:
    scorers.check(scorer, 'a <|endoftext|> cat')
  assert error.value.key == 'prompt'


@pytest.mark.parametrize('eos', [5, 2])
def test_a_tokenizer_of_another_model_is_refused(eos, tmp_path):
  """The model would read a text at its first token."""
  folder = clip_files.write(tmp_path)
  text = clip_files.CONFIG['text_config'] | {'eos_token_id': eos}
  config = clip_files.CONFIG | {'text_config': text}
  (folder / 'config.json').write_text(json.dumps(config))
  vocab = clip_files.vocabulary()
  if eos == 2:  # The end of a text has not its highest id.
    vocab['<|startoftext|>'], vocab['<|endoftext|>'] = 521, 520
  (folder / 'vocab.json').write_text(json.dumps(vocab))
  with pytest.raises(UserError) as error:
    scorers.load(f'clip:{folder}')
  assert error.value.key == 'eos_token_id'


@pytest.mark.fast
@pytest.mark.parametrize('name', ['clip:', 'clip:score', 'clip:/dev/null'])
def test_a_module_called_clip_is_no_scorer(name, tmp_path, monkeypatch):
  (tmp_path / 'clip.py').write_text('def score(prompts, images): return []')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError) as error:
    scorers.load(name, 'config.nft.reward')
  assert error.value.key == 'config.nft.reward'
  assert error.value.allowed == 'clip:DIR'


@pytest.mark.long
def test_the_best_candidate_by_clip_is_kept(folder, tmp_path, cli):
  from PIL import Image

  argv = ['sample', '--model', 'shapes', '--steps', 2, '--batch-size', 4]
  argv += ['--prompt', 'three green stars', '--num-images']
  every, best = tmp_path / 'every', tmp_path / 'best'
  assert cli(*argv, 4, '--out', every)[0] == 0
  choice = '--candidates', 4, '--scorer', f'clip:{folder}'
  assert cli(*argv, 1, *choice, '--out', best)[0] == 0
  lines = [
    [json.loads(x) for x in (out / 'results.jsonl').read_text().splitlines()]
    for out in (every, best)
  ]
  pictures = []
  for line in lines[0]:
    with Image.open(every / line['file']) as image:
      pictures.append(np.asarray(image))
  scores = scorers.load(f'clip:{folder}')(
    ['three green stars'] * 4, np.stack(pictures)
  )
  assert [x['number'] for x in lines[1]] == [np.argmax(scores)]
  np.testing.assert_allclose(lines[1][0]['score'], scores.max(), rtol=1e-3)


@pytest.mark.long
def test_a_folder_without_a_model_is_one_error(cli, tmp_path):
  out = tmp_path / 'out'
  code, printed, err = cli(
    *('sample', '--model', 'shapes', '--prompt', 'a star', '--out', out),
    *('--candidates', 2, '--scorer', f'clip:{tmp_path}'),
  )
  assert (code, printed, err.count('\n')) == (2, '', 1)
  assert not out.exists()
