"""Folders as other trainers have them: kohya's, and metadata.jsonl."""

import json

from PIL import Image
import pytest

from sana_jax.data import picture_folders, sources
from sana_jax.data.folder import FolderSource
from sana_jax.errors import UserError

pytestmark = pytest.mark.fast


def put(path, caption=None, size=(8, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, 'red').save(path)
  if caption is not None:
    path.with_suffix('.txt').write_text(caption)
  return path


def opened(kind, path, **more):
  return sources.open_source(kind, path=path, size=8, cache='', **more)


def captions(source):
  return {source.name(i): source[i]['caption'] for i in range(len(source))}


def test_a_folder_of_kohya_has_its_repeats_and_words(tmp_path):
  put(tmp_path / '10_sks dog/1.png')
  put(tmp_path / '10_sks dog/sub/2.png', 'a dog sits')
  put(tmp_path / '3_my cat_/3.png')
  source = opened('kohya', tmp_path)
  assert captions(source) == {
    '10_sks dog/1.png': 'sks dog',
    '10_sks dog/sub/2.png': 'a dog sits',
    '3_my cat_/3.png': 'my cat_',
  }
  assert source.repeats().tolist() == [10, 10, 3]


@pytest.mark.parametrize(
  'name', ['dog', '_dog', '0_dog', '3_', '3 dog', '-1_a']
)
def test_a_folder_without_a_number_is_refused_by_name(tmp_path, name):
  put(tmp_path / name / '1.png')
  with pytest.raises(UserError) as error:
    opened('kohya', tmp_path)
  assert (error.value.key, error.value.value) == ('data.path', name)


def test_images_beside_the_folders_of_kohya_are_refused(tmp_path):
  put(tmp_path / '1.png', 'a dog')
  with pytest.raises(UserError) as error:
    opened('kohya', tmp_path)
  assert error.value.key == 'data.path'


def test_in_other_folders_numbers_mean_nothing(tmp_path):
  put(tmp_path / '2024_dogs/1.png', 'a dog')
  source = opened('folder', tmp_path)
  assert source.repeats().tolist() == [1]


def test_lines_of_metadata_describe_images_of_their_folder(tmp_path):
  put(tmp_path / 'a.png')
  put(tmp_path / 'sub/b.png')
  put(tmp_path / 'sub/c.png', 'from text')
  (tmp_path / 'metadata.jsonl').write_text(
    '{"file_name": "a.png", "text": "A"}'
  )
  (tmp_path / 'sub/metadata.jsonl').write_text(
    '\n{"file_name": "b.png", "captions": {"prompt": "B", "long": "Bee"}}\n'
    '{"file_name": "./c.png", "width": 64, "height": 32}\n'
  )
  source = FolderSource(tmp_path, 8)
  assert captions(source) == {
    'a.png': 'A',
    'sub/b.png': 'B',
    'sub/c.png': 'from text',
  }
  assert source[1]['captions'] == {'prompt': 'B', 'long': 'Bee'}
  assert source.sizes().tolist() == [[8, 8], [8, 8], [32, 64]]


@pytest.mark.parametrize(
  'line', ['{', '[]', '3', '{"text": "a"}', '{"file_name": 3}']
)
def test_a_damaged_line_is_refused_by_its_number(tmp_path, line):
  put(tmp_path / 'a.png')
  good = json.dumps({'file_name': 'a.png', 'text': 'A'})
  (tmp_path / 'metadata.jsonl').write_text(f'{good}\n{line}\n')
  with pytest.raises(UserError) as error:
    FolderSource(tmp_path, 8)
  assert (error.value.key, error.value.value) == ('data.path', 2)


def test_a_prompt_is_the_caption_of_images_without_one(tmp_path):
  put(tmp_path / 'a.png')
  put(tmp_path / 'b.png', 'its own')
  put(tmp_path / 'c.png', '  ')
  source = opened('folder', tmp_path, prompt='a photo of sks dog')
  assert captions(source) == {
    'a.png': 'a photo of sks dog',
    'b.png': 'its own',
    'c.png': 'a photo of sks dog',
  }


@pytest.mark.parametrize('given', [{'prompt': 'a dog'}, {'masks': 'files'}])
def test_other_sources_refuse_what_only_folders_have(tmp_path, given):
  with pytest.raises(UserError) as error:
    opened('parquet', tmp_path, **given)
  keys = {'prompt': 'data.instance_prompt', 'masks': 'data.masks'}
  assert error.value.key == keys[next(iter(given))]
  assert error.value.allowed == sources.FOLDERS


def test_the_files_of_a_listing_are_those_that_change_records(tmp_path):
  put(tmp_path / '1_dog/a.png')
  put(tmp_path / '1_dog/b.png', 'b')
  put(tmp_path / '1_dog/b.mask.png')
  (tmp_path / '1_dog/notes.md').write_text('')
  listed = {
    kind: {x.rpartition('/')[2] for x in sources.listing(kind, tmp_path)}
    for kind in sources.FOLDERS
  }
  assert listed['folder'] == {'b.png', 'b.txt', 'b.mask.png'}
  assert listed['kohya'] == {'a.png', *listed['folder']}
  assert {*sources.listing('folder', tmp_path, 'a dog')} == {
    f'1_dog/{name}' for name in listed['kohya']
  }
  assert picture_folders.LINES not in listed['folder']
