"""sana-jax sample: pictures with metadata, or a one-line error."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

from sana_jax.version import __version__

PROMPTS = ('a red circle', 'two blue squares over ä cat')


def pictures(folder):
  found = {}
  for path in sorted(folder.glob('0*.png')):
    with Image.open(path) as image:
      found[path.name] = np.asarray(image)
  return found


@pytest.fixture(scope='module')
def made(tmp_path_factory, tiny_sana):
  """A folder of two pictures of each of two prompts."""
  from sana_jax.launch import cli

  folder = tmp_path_factory.mktemp('sample')
  prompts = folder / 'prompts.txt'
  prompts.write_text('\n'.join(PROMPTS) + '\n\n', encoding='utf-8')
  argv = [
    'sample',
    '--model',
    str(tiny_sana),
    '--prompts',
    str(prompts),
    '--num-images',
    '2',
    '--steps',
    '2',
    '--seed',
    '5',
    '--out',
  ]
  assert cli.main([*argv, str(folder / 'out')]) == 0
  return argv, folder / 'out'


def test_every_picture_records_how_it_was_made(made, tiny_sana):
  _, out = made
  names = sorted(pictures(out))
  assert names == [
    '00000-0-a-red-circle.png',
    '00000-1-a-red-circle.png',
    '00001-0-two-blue-squares-over-cat.png',
    '00001-1-two-blue-squares-over-cat.png',
  ]
  with Image.open(out / names[3]) as image:
    assert image.size == (32, 32)
    about = image.text
  assert about['prompt'] == PROMPTS[1]
  assert about['seed'] == '5'
  assert about['number'] == '1'
  assert about['steps'] == '2'
  assert about['guidance_scale'] == '4.5'
  assert about['model'] == str(tiny_sana)
  assert about['version'] == f'sana_jax {__version__}'


def test_the_list_and_the_sheet_hold_every_picture(made):
  _, out = made
  lines = [
    json.loads(x)
    for x in (out / 'results.jsonl').read_text(encoding='utf-8').splitlines()
  ]
  assert [x['file'] for x in lines] == sorted(pictures(out))
  assert [x['prompt'] for x in lines] == [p for p in PROMPTS for _ in range(2)]
  # Two columns of pictures that are shown at 128 px.
  with Image.open(out / 'contact_sheet.png') as sheet:
    width, height = sheet.size
  assert width == 2 * (128 + 12) and height > width
  assert not [p for p in out.iterdir() if p.name.startswith('.')]


@pytest.mark.long
def test_the_same_command_writes_the_same_bytes(made, tmp_path, cli):
  argv, out = made
  assert cli(*argv, tmp_path)[0] == 0
  read = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}
  assert read(tmp_path) == read(out)


def test_running_out_of_memory_raises_a_user_error(
  made, tmp_path, cli, monkeypatch
):
  from sana_jax.inference.pipeline import Pipeline

  def fail(*_, **__):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')

  monkeypatch.setattr(Pipeline, 'draw', fail)
  code, _, err = cli(*made[0], tmp_path / 'full')
  assert code == 2
  assert '--batch-size' in err and '--decode=strips' in err


@pytest.mark.long
@pytest.mark.parametrize(
  'flags',
  [
    ['--mesh', 'data=2,sequence=4'],
    [
      '--batch-size=3',
      '--decode=strips',
      '--kernels=relu_linear_attention=xla_chunked,glumb_conv=xla_jvp',
    ],
  ],
)
def test_how_the_work_is_cut_changes_no_picture(made, tmp_path, cli, flags):
  argv, out = made
  assert cli(*argv, tmp_path, *flags)[0] == 0
  want, got = pictures(out), pictures(tmp_path)
  assert want.keys() == got.keys()
  for name in want:  # To rounding.
    np.testing.assert_allclose(got[name].astype(int), want[name], atol=1)


@pytest.mark.long
def test_ways_of_guidance_are_in_the_metadata(made, tmp_path, cli):
  argv, out = made
  code, _, _ = cli(
    *argv,
    tmp_path,
    '--guidance-interval',
    '0.2:0.8',
    '--pag-scale',
    '2',
    '--apg-eta',
    '0.5',
    '--flow-shift',
    '4',
  )
  assert code == 0
  (name, image), *_ = pictures(tmp_path).items()
  assert not np.array_equal(image, pictures(out)[name])
  line = json.loads((tmp_path / 'results.jsonl').read_text().splitlines()[0])
  assert line['guidance'] == {
    'interval': [0.2, 0.8],
    'pag_scale': 2,
    'apg_eta': 0.5,
  }
  assert line['flow_shift'] == 4


def test_pictures_of_a_prompt_differ(made):
  first, second, *_ = pictures(made[1]).values()
  assert not np.array_equal(first, second)


@pytest.mark.long
def test_the_report_names_the_folder(made, tmp_path, cli):
  argv, _ = made
  code, out, err = cli(*argv, tmp_path / 'new' / 'out')
  assert code == 0
  assert out == (
    f'4 pictures are in {tmp_path}/new/out, all of them in '
    f'{tmp_path}/new/out/contact_sheet.png.\n'
  )
  assert 'Traceback' not in err


@pytest.mark.long
@pytest.mark.parametrize('size', [1000, 10_000])
def test_a_full_disk_leaves_no_half_file(size, made, cli, full_disk, tmp_path):
  argv, whole = made
  out = tmp_path / 'new'
  with full_disk(size):
    code, printed, err = cli(*argv, out)
  assert code == 2
  assert printed == ''
  last = err.splitlines()[-1]
  assert f'--out={out} ' in last and 'File too large' in last
  if size == 1000:  # Not even the first picture.
    assert not out.exists()
  else:  # Everything but the sheet, which is larger.
    assert sorted(p.name for p in out.iterdir()) == [
      *sorted(pictures(whole)),
      'results.jsonl',
    ]
    for path in out.iterdir():
      assert path.read_bytes() == (whole / path.name).read_bytes()
