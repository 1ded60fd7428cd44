"""CLIP's tokenizer of checked files equals transformers' own."""

import json

import clip_files
import numpy as np
import pytest
import transformers

from sana_jax.errors import UserError
from sana_jax.text import clip_tokenizer

pytestmark = pytest.mark.fast
PROMPTS = (
  '',
  'a red cat',
  'A RED   CAT\n\ton a ball!!',
  "the cat's ball isn't red, they're 12 of 1234",
  'naïve café, 你好 🎉',
  'Ünïcode \u0041\u030a ﬁ İstanbul',
  'a&amp;b <b>x</b> #tag @you',
  'under_score-dash... "quoted" (x)',
  '\u00a0hard\u2003blanks\u200b',
  '½ ² ٣ Ⅷ',
  'red ' * 50,
  'supercalifragilisticexpialidocious ' * 3,
)


@pytest.fixture(params=[True, False], ids=['one file', 'two files'])
def folder(request, tmp_path):
  clip_files.write_tokenizer(tmp_path, whole=request.param)
  return tmp_path


def test_ids_are_those_of_transformers(folder, tmp_path_factory):
  plain = tmp_path_factory.mktemp('plain')
  clip_files.write_tokenizer(plain)
  theirs = transformers.CLIPTokenizer.from_pretrained(plain)
  want = theirs(
    list(PROMPTS), padding='max_length', truncation=True, max_length=20
  )
  got = clip_tokenizer.encode(clip_tokenizer.load(folder), PROMPTS, 20)
  np.testing.assert_array_equal(got, want['input_ids'])


def test_a_prompt_is_merged_by_word_and_cut_with_its_end(folder):
  vocab = clip_files.vocabulary()
  bos, eos = vocab['<|startoftext|>'], vocab['<|endoftext|>']
  ids = clip_tokenizer.encode(
    clip_tokenizer.load(folder), ['A Red CAT', 'red ' * 50], 6
  )
  words = [vocab[x] for x in ('a</w>', 'red</w>', 'cat</w>')]
  assert ids.tolist() == [
    [bos, *words, eos, eos],
    [bos, *4 * [vocab['red</w>']], eos],
  ]


@pytest.mark.parametrize(
  'prompt', ['a <|endoftext|> cat', 'half \ud800 of a pair']
)
def test_a_prompt_that_cannot_be_encoded_is_refused(folder, prompt):
  with pytest.raises(UserError) as error:
    clip_tokenizer.encode(clip_tokenizer.load(folder), [prompt], 20)
  assert error.value.key == 'prompt'


def test_a_character_without_a_token_is_refused(tmp_path):
  """It would end the text, as the unknown token is that of the end."""
  vocab = ['a</w>', '<|startoftext|>', '<|endoftext|>']
  text = json.dumps({x: i for i, x in enumerate(vocab)})
  (tmp_path / 'vocab.json').write_text(text)
  (tmp_path / 'merges.txt').write_text('')
  tokenizer = clip_tokenizer.load(tmp_path)
  assert clip_tokenizer.encode(tokenizer, ['a a'], 4).tolist() == [[1, 0, 0, 2]]
  with pytest.raises(UserError) as error:
    clip_tokenizer.encode(tokenizer, ['a', 'a b a'], 8)
  assert error.value.value == 'a b a'


VOCAB = clip_files.vocabulary()
BPE = {'type': 'BPE', 'vocab': VOCAB, 'merges': []}
DAMAGED = {
  'no file': {},
  'no merges': {'vocab.json': VOCAB},
  'no object': {'vocab.json': [], 'merges.txt': ''},
  'no JSON': {'tokenizer.json': '{'},
  'no model': {'tokenizer.json': {}},
  'another kind': {'tokenizer.json': {'model': {**BPE, 'type': 'WordPiece'}}},
  'gaps of ids': {'vocab.json': {'a': 0, 'b': 2}, 'merges.txt': ''},
  'no numbers': {'vocab.json': {'a': '0'}, 'merges.txt': ''},
  'no end': {'vocab.json': {'a': 0, '<|startoftext|>': 1}, 'merges.txt': ''},
  'merges of nothing': {'vocab.json': VOCAB, 'merges.txt': 'q q q\n'},
  'merges of no token': {'vocab.json': VOCAB, 'merges.txt': 'q q\n'},
  'no text': {'vocab.json': VOCAB, 'merges.txt': b'\xff\xfe\n'},
  'another token': {
    'tokenizer.json': {'model': BPE, 'added_tokens': [{'content': '<cat>'}]}
  },
  'no list of tokens': {'tokenizer.json': {'model': BPE, 'added_tokens': 7}},
}


@pytest.mark.parametrize('files', DAMAGED.values(), ids=DAMAGED)
def test_other_or_damaged_files_are_one_error(files, tmp_path):
  for name, content in files.items():
    if isinstance(content, dict | list):
      content = json.dumps(content)
    if isinstance(content, str):
      content = content.encode()
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError) as error:
    clip_tokenizer.load(tmp_path)
  assert '\n' not in str(error.value)


def test_expressions_of_a_folder_are_not_used(tmp_path):
  clip_files.write_tokenizer(tmp_path, whole=True)
  path = tmp_path / 'tokenizer.json'
  content = json.loads(path.read_text())
  content['pre_tokenizer'] = {'type': 'Split', 'pattern': {'Regex': '(a+)+$'}}
  content['normalizer'] = {'type': 'Replace'}
  path.write_text(json.dumps(content))
  tokenizer = clip_tokenizer.load(tmp_path)
  assert clip_tokenizer.encode(tokenizer, ['a' * 500], 20).shape == (1, 20)
