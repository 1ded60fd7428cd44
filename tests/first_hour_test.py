"""The first hour of a newcomer: a fresh clone and a new shell, step by step.

Needs PyTorch, diffusers, Chromium and its driver: launch/test -m first_hour.
SANA_JAX_FIRST_HOUR=DIR keeps the pictures and screenshots there.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image, ImageDraw
import pytest
from shells import shell, start

pytestmark = pytest.mark.first_hour
ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PYTHON = pathlib.Path(sys.base_prefix) / 'bin'
ACTIVATE = 'source .venv/bin/activate\n'
COLOURS = ('red', 'green', 'blue', 'yellow', 'purple')
# A run of `shapes` on a folder, whose text projections alone are trained.
TRAIN = """sana-jax train --config shapes --workdir out/mine \
  --config.init_from=shapes --config.trainable='caption/.*' \
  --config.autoencoder=shapes --config.text_encoder=shapes \
  --config.data.source=folder --config.data.path=photos \
  --config.num_steps=40 --config.batch_size=10 \
  --config.checkpoint_every_steps=5 \
  --config.log_every_steps=5 --config.pictures_every_steps=0 \
  --config.optimizer.warmup_steps=0 --config.optimizer.learning_rate=1e-4"""


def block(language, holding):
  """The README's block of a language that holds a text."""
  found = re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)
  return next(b for b in found if holding in b)


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
  """A fresh clone, installed by the README's first lines."""
  folder = tmp_path_factory.mktemp('hour') / 'sana_jax'
  subprocess.run(['git', 'clone', '-q', ROOT, folder], check=True)
  lines = block('bash', 'pip install').splitlines()[:2]
  shell('\n'.join(lines), folder, PYTHON)
  yield folder
  if kept := os.environ.get('SANA_JAX_FIRST_HOUR'):
    for path in [*folder.glob('out/**/*.png'), *folder.glob('*.png')]:
      name = '-'.join(path.relative_to(folder).parts)
      shutil.copy(path, pathlib.Path(kept) / name)


@pytest.fixture(scope='module')
def run(clone):
  """Runs lines in a new shell of the clone, its environment activated."""
  return lambda text, **kw: shell(ACTIVATE + text, clone, PYTHON, **kw)


def pixels(path):
  with Image.open(path) as image:
    return np.asarray(image)


def pictures(folder):
  return [pixels(p) for p in sorted(folder.glob('0*.png'))]


def test_the_first_image_is_made_by_the_lines_of_the_readme(clone, run):
  lines = block('bash', 'pip install').partition('constraints.txt\n')[2]
  run(lines)
  assert pixels(clone / 'out/contact_sheet.png').shape[1] > 128
  (clone / 'first.py').write_text(block('python', 'Pipeline'))
  run('python first.py')
  assert pixels(clone / 'out.png').shape == (128, 128, 3)


def photos(folder):
  """Draws 20 photographs of different sizes, captioned in text files."""
  folder.mkdir()
  for index in range(20):
    colour = COLOURS[index % 5]
    image = Image.new('RGB', (150 + 7 * index, 160), 'lightgray')
    box = [30 + index, 30, 110 + index, 110]
    ImageDraw.Draw(image).rectangle(box, fill=colour)
    image.save(folder / f'IMG {index:02}.{"jpg" if index % 2 else "png"}')
    (folder / f'IMG {index:02}.txt').write_text(f'a {colour} square\n')


def test_a_folder_of_ones_own_is_described(clone, run):
  photos(clone / 'photos')
  out = run(
    'sana-jax data describe --config.data.source=folder '
    '--config.data.path=photos --config.data.size_px=128'
  )
  assert '20' in out and 'square' in out


def metrics(clone):
  text = (clone / 'out/mine/metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_part_of_the_model_is_trained_on_it_stopped_and_resumed(clone, run):
  command = [*start(clone, PYTHON), 'bash', '-e', '-c']
  text = ACTIVATE + 'exec ' + TRAIN
  with subprocess.Popen([*command, text], cwd=clone) as process:
    end = time.monotonic() + 300
    there = lambda: [*clone.glob('out/mine/checkpoints/[1-9]*')]
    while process.poll() is None and not there():
      assert time.monotonic() < end
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
  assert process.returncode == 143
  assert not (clone / 'out/mine/model').exists()
  run(TRAIN)
  steps = [m['step'] for m in metrics(clone) if 'loss' in m]
  assert steps == sorted(set(steps)) and steps[-1] == 40
  assert (clone / 'out/mine/loss.png').is_file()
  run('sana-jax sample --model out/mine/model --prompt "a star" --out out/own')
  assert len(pictures(clone / 'out/own')) == 1


def test_the_result_is_evaluated(clone, run):
  out = run(
    'sana-jax evaluate --model out/mine/model --suite shapes --per-kind 2 '
    '--num-images 1 --out out/scores'
  )
  assert 'overall' in out
  assert (clone / 'out/scores/scores.png').is_file()


def test_diffusers_reads_it_and_what_diffusers_writes_is_read(clone, run):
  script = f"""
import diffusers
pipe = diffusers.SanaPipeline.from_pretrained({str(clone / 'out/mine/model')!r})
image = pipe('a red square', height=128, width=128, num_inference_steps=4,
             use_resolution_binning=False).images[0]
image.save({str(clone / 'out/diffusers.png')!r})
pipe.save_pretrained({str(clone / 'out/back')!r})
"""
  subprocess.run([sys.executable, '-c', script], check=True)
  assert pixels(clone / 'out/diffusers.png').shape == (128, 128, 3)
  for name, model in (('before', 'out/mine/model'), ('after', 'out/back')):
    run(
      f'sana-jax sample --model {model} --prompt "a red square" --seed 1 '
      f'--steps 4 --guidance-scale 3 --dtype float32 --out out/{name}'
    )
  before, after = pictures(clone / 'out/before'), pictures(clone / 'out/after')
  np.testing.assert_array_equal(before, after)


@contextlib.contextmanager
def chromium(*flags):
  """A headless browser."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', *flags):
    options.add_argument(flag)
  # The driver is named, so that none is searched on the network.
  service = webdriver.ChromeService(
    os.environ.get('CHROMEDRIVER', '/usr/bin/chromedriver')
  )
  with webdriver.Chrome(options, service) as driver:
    yield driver


def test_the_demo_draws_in_a_browser(clone, run):
  run("pip install -e '.[train,demo]' -c constraints.txt")
  text = ACTIVATE + 'exec sana-jax demo --model out/mine/model --port 0'
  command = [*start(clone, PYTHON), 'bash', '-e', '-c', text]
  with subprocess.Popen(
    command, cwd=clone, stdout=subprocess.PIPE, text=True
  ) as process:
    address = process.stdout.readline().split()[-1]
    try:
      with chromium('--window-size=1280,930') as browser:
        browser.get(address)
        wait(browser, '#prompt textarea').send_keys('a red square')
        browser.save_screenshot(str(clone / 'demo_before.png'))
        wait(browser, '#draw').click()
        wait(browser, '#pictures [data-made] img', seconds=120)
        browser.save_screenshot(str(clone / 'demo_after.png'))
    finally:
      process.send_signal(signal.SIGTERM)
  assert process.returncode == 143


def wait(browser, selector, seconds=90):
  """The first visible element, as soon as it is there."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    found = browser.find_elements('css selector', selector)
    if found and found[0].is_displayed():
      return found[0]
    time.sleep(0.1)
  raise AssertionError(f'{selector} did not appear in {seconds} s')


def test_layouts_of_a_pod_are_planned(clone, run):
  out = run(
    'sana-jax plan --config sana_600m_512 --topology v5e:16x16 --shardings'
  )
  assert 'fsdp' in out and 'parameters' in out
  refused = run(
    'sana-jax plan --config sana_600m_512 --topology v5e:16x16 --out out/plan '
    '|| [ $? = 2 ]'
  )
  assert 'tpu' in refused and 'Traceback' not in refused


def test_manifests_of_a_pod_are_written(clone, run):
  slurm = run(
    'sana-jax launch --where slurm --topology h200:1x4x8 --no-plan --dry-run '
    '--config sana_1600m_1024 --workdir /shared/run --partition gpu '
    '--config.data.path=/shared/data'
  )
  assert '#SBATCH' in slurm and '--nodes=4' in slurm
  gke = run(
    'sana-jax launch --where gke --topology v6e:16x16 --no-plan --dry-run '
    '--config sana_1600m_1024 --workdir gs://bucket/run '
    '--config.inputs.cache=gs://bucket/cache '
    '--config.data.path=gs://bucket/data '
    '--image us-docker.pkg.dev/mine/train/sana_jax:1'
  )
  assert 'kind: JobSet' in gke
  refused = run(
    'sana-jax launch --where gke --topology v6e:16x16 --no-plan --dry-run '
    '--config sana_1600m_1024 --workdir gs://bucket/run '
    '--config.data.path=photos '
    '--image us-docker.pkg.dev/mine/train/sana_jax:1 || [ $? = 2 ]'
  )
  assert 'photos' in refused and 'data.path' in refused
  assert 'JobSet' not in refused
