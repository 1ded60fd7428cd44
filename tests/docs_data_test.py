"""Commands of docs/data.md, run on small files of each layout."""

import io
import json
import re
import tarfile

import pages
from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.launch.config_files import load_config

PAGE = pages.text('data')


def image(size):
  buffer = io.BytesIO()
  Image.new('RGB', (size, size), 'red').save(buffer, 'png')
  return buffer.getvalue()


def write_tar(path, samples):
  path.parent.mkdir(parents=True)
  with tarfile.open(path, 'w') as archive:
    for name, content in samples.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def data(tmp_path, monkeypatch):
  """Folder data/ with the input of the page's commands, and the index."""
  monkeypatch.chdir(tmp_path)
  (sample,) = pages.blocks(PAGE, ['json'])
  write_tar(
    tmp_path / 'data/tars/0001.tar',
    {
      '0001.png': image(40),
      '0001.txt': b'a cat',
      '0002.png': image(70),
      '0002.json': sample.encode(),
    },
  )
  write_tar(
    tmp_path / 'data/official/0001.tar',
    {'0001.png': image(40), '0001.json': b'{"prompt": "a cat"}'},
  )
  for name, content in {
    'wids-meta.json': {'shardlist': [{'url': '0001.tar', 'nsamples': 1}]},
    '0001_prompt_clip_score.json': {'0001': {'prompt': 26.5}},
  }.items():
    (tmp_path / 'data/official' / name).write_text(json.dumps(content))
  (tmp_path / 'data/parquet').mkdir()
  parquet.write_table(
    pyarrow.Table.from_pylist(
      [
        {
          'image': image(40),
          'text': 'a cat',
          'long': 'A grey cat.',
          'text_score': 24.1,
          'long_score': 29.6,
        }
      ]
    ),
    'data/parquet/0.parquet',
  )
  (tmp_path / 'data/folder').mkdir()
  for size in (16, 48):
    (tmp_path / f'data/folder/{size}.png').write_bytes(image(size))
    (tmp_path / f'data/folder/{size}.txt').write_text('a cat')
  (tmp_path / 'data/cat.png').write_bytes(image(64))
  return tmp_path


@pytest.mark.docs
def test_the_commands_of_the_page_run(data, page_shell):
  (python,) = pages.blocks(PAGE, ['python'])
  exec(python, {})
  commands = pages.commands(PAGE)
  assert len(commands) == 12
  outputs = page_shell([*map(pages.smaller, commands)], data)
  for part, records in {
    'out/data': 64,
    'tars/*.tar': 2,
    'wids-meta': 1,
    'data/parquet': 1,
    '*.array_record': 1,
    'min_size_px': 1,
  }.items():
    (printed,) = [
      output
      for command, output in zip(commands, outputs)
      if part in command and 'describe' in command
    ]
    count = '1 record\n' if records == 1 else f'{records} records\n'
    assert printed.startswith(count), printed
  trial, own = [c for c in commands if ' train ' in c]
  config = re.search(r'--config (\S+)', own)[1]
  assert f'--config {config}:runlocal' in trial
  assert load_config(config).init_from
  (sample,) = [c for c in commands if ' sample ' in c]
  workdir = re.search(r'--workdir (\S+)', own)[1]
  assert f'{workdir}/model' in sample
  index = json.loads((data / 'out/trial/model/model_index.json').read_text())
  assert index['_class_name'] == 'SanaPipeline'
  assert (data / 'out/pictures/contact_sheet.png').is_file()
