"""Commands of docs/data.md, run on small files of each layout."""

import io
import json
import pathlib
import re
import shlex
import tarfile

from PIL import Image
import pyarrow
from pyarrow import parquet
import pytest

from sana_jax.launch import cli
from sana_jax.launch.config_files import checked_config

PAGE = (pathlib.Path(__file__).parents[1] / 'docs/data.md').read_text()
COMMANDS = [
  line
  for block in re.findall(r'```bash\n(.*?)```', PAGE, re.DOTALL)
  for line in block.replace('\\\n', ' ').splitlines()
]


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
  monkeypatch.setenv('HOME', str(tmp_path))
  (sample,) = re.findall(r'```json\n(.*?)```', PAGE, re.DOTALL)
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
def test_the_commands_of_the_page_run(data, capsys):
  (python,) = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
  exec(python, {})
  outputs = {}
  for line in COMMANDS:
    name, *arguments = shlex.split(line)
    if name != 'sana-jax' or arguments[0] in ('train', 'sample'):
      continue
    assert cli.main(arguments) == 0, capsys.readouterr().err
    outputs[line] = capsys.readouterr().out
  assert len(outputs) == 9
  for line, records in {
    'out/data': 64,
    'tars/*.tar': 2,
    'wids-meta': 1,
    'data/parquet': 1,
    '*.array_record': 1,
    'min_size_px': 1,
  }.items():
    (text,) = [
      out
      for command, out in outputs.items()
      if line in command and 'describe' in command
    ]
    count = '1 record\n' if records == 1 else f'{records} records\n'
    assert text.startswith(count), text


@pytest.mark.docs
def test_a_folder_is_trained_on(data, capsys):
  trial, own = [shlex.split(c)[1:] for c in COMMANDS if ' train ' in c]
  assert cli.main(trial) == 0, capsys.readouterr().err
  _, config, *_ = own[own.index('--config') :]
  assert trial[trial.index('--config') + 1] == f'{config}:runlocal'
  overrides = [x for x in own if x.startswith('--config.')]
  checked = checked_config(config, overrides)
  assert checked.data.source == 'folder' and checked.init_from
  (sample,) = [shlex.split(c)[1:] for c in COMMANDS if ' sample ' in c]
  workdir = own[own.index('--workdir') + 1]
  assert f'{workdir}/model' in sample
  index = json.loads((data / 'out/trial/model/model_index.json').read_text())
  assert index['_class_name'] == 'SanaPipeline'
