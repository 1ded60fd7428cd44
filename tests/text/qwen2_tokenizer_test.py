"""Qwen2's tokenizer and chat format against transformers."""

import json

import judge_folder
import pytest
import transformers

from sana_jax.errors import UserError
from sana_jax.text import qwen2_tokenizer

TEXTS = (
  'yes no',
  "It's <image>\nfive  dogs, 12 cats!\n",
  'café 日本 <|im_end|> x',
  '',
)


@pytest.fixture
def folder(tmp_path):
  judge_folder.tokenizer(tmp_path)
  return tmp_path


def change(path, **changes):
  content = json.loads(path.read_text()) | changes
  path.write_text(
    json.dumps({k: v for k, v in content.items() if v is not None})
  )


def test_tokens_are_those_of_transformers(folder):
  chat = qwen2_tokenizer.load(folder)
  theirs = transformers.Qwen2Tokenizer.from_pretrained(folder)
  for text in TEXTS:
    assert chat.ids(text) == theirs.encode(text, add_special_tokens=False)
  assert chat.ids('yes') == [judge_folder.YES]


def test_both_kinds_of_files_have_the_same_tokens(folder, tmp_path_factory):
  other = tmp_path_factory.mktemp('other')
  theirs = transformers.Qwen2Tokenizer.from_pretrained(folder)
  theirs.save_pretrained(other)
  assert not (other / 'vocab.json').exists()
  change(other / 'tokenizer_config.json', chat_template=judge_folder.TEMPLATE)
  a, b = qwen2_tokenizer.load(folder), qwen2_tokenizer.load(other)
  assert [a.ids(x) for x in TEXTS] == [b.ids(x) for x in TEXTS]
  assert a.system == b.system == 'Be brief.'


def test_a_chat_is_that_of_the_folders_template(folder):
  pytest.importorskip('jinja2')
  chat = qwen2_tokenizer.load(folder)
  theirs = transformers.Qwen2Tokenizer.from_pretrained(folder)
  want = theirs.apply_chat_template(
    [{'role': 'user', 'content': '<image>what?\n'}],
    add_generation_prompt=True,
    tokenize=False,
  )
  assert chat.text('<image>what?\n') == want


def test_a_template_of_vila_is_known_by_name(folder):
  change(folder / 'tokenizer_config.json', chat_template=None)
  chat = qwen2_tokenizer.load(folder, 'qwen2')
  assert chat.text('hi') == (
    '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n'
    '<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n'
  )


def test_a_template_in_a_file_of_its_own_is_read(folder):
  change(folder / 'tokenizer_config.json', chat_template=None)
  template = "{{ '<|im_start|>user\\n' + m + '<|im_end|>\\n' }}"
  (folder / 'chat_template.jinja').write_text(template)
  assert qwen2_tokenizer.load(folder).system == ''


@pytest.mark.parametrize(
  'changes, key',
  [
    ({'chat_template': None}, 'chat_template'),
    ({'chat_template': 'USER: {{ m }}'}, 'chat_template'),
    ({'chat_template': judge_folder.TEMPLATE * 2}, None),
    (
      {
        'chat_template': judge_folder.TEMPLATE
        + judge_folder.TEMPLATE.replace('brief', 'long')
      },
      'chat_template',
    ),
    ({'tokenizer_class': 'GemmaTokenizer'}, 'tokenizer_class'),
    ({'added_tokens_decoder': {}}, 'added_tokens_decoder'),
    (
      {'added_tokens_decoder': {'900': {'content': '<|im_start|>'}}},
      'added_tokens_decoder',
    ),
  ],
)
def test_other_tokenizers_are_refused(folder, changes, key):
  change(folder / 'tokenizer_config.json', **changes)
  if key is None:
    assert qwen2_tokenizer.load(folder).system == 'Be brief.'
    return
  with pytest.raises(UserError) as error:
    qwen2_tokenizer.load(folder)
  assert error.value.key == key


@pytest.mark.parametrize(
  'name', ['vocab.json', 'merges.txt', 'tokenizer_config.json']
)
def test_a_missing_file_is_named(folder, name):
  (folder / name).unlink()
  with pytest.raises(UserError) as error:
    qwen2_tokenizer.load(folder)
  assert name in error.value.allowed
