"""Commands of the pages, made small enough for a test."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
BLOCK = r'^```(\w*)\n(.*?)^```$'
STARTS = (
  r'(?:sana-jax|python3?|pip|PYTHONPATH=\.|tensorboard|docker|kubectl|'
  r'source|ln) '
)
# Flags that are added to each command that holds a pattern.
SMALLER = {
  r'sana-jax sample ': '--steps 1',
  r'sana-jax evaluate ': '--per-kind 1 --num-images 1 --steps 1',
  r'sana-jax data shapes .*--examples 24000': '--examples 32',
  r'sana-jax bench kernels ': '--repeats 1 --passes forward',
  r' bench chip ': '--minutes 0.001',
  r'sana-jax demo ': '--port 0',
  r'sana-jax prune (?!.*--importance)': '--levels 1 --num-images 1',
  r'sana-jax train .*:runlocal ': '--config.num_steps=1 '
  '--config.pictures_every_steps=0',
  r'sana-jax train --config (?!finetune)\S*shapes(\.py)? ': ''
  '--config.num_steps=1 --config.data.examples=32 --config.data.path=out/small '
  '--config.batch_size=8 --config.optimizer.warmup_steps=0 '
  '--config.model.unroll=1 --config.pictures_every_steps=0',
  r'sana-jax train --config (?!finetune)\S*shapes(\.py)? (?!.*init_from)': ''
  '--config.model.depth=2',
  r'sana-jax train --config shapes_sprint ': '--config.num_steps=1 '
  '--config.data.examples=32 --config.data.path=out/small '
  '--config.batch_size=8 --config.optimizer.warmup_steps=0 '
  '--config.model.unroll=1 --config.pictures_every_steps=0',
  r'sana-jax train --config shapes_nft ': '--config.num_steps=1 '
  '--config.data.examples=32 --config.data.path=out/small '
  '--config.batch_size=8 --config.model.unroll=1 --config.nft.steps=1 '
  '--config.nft.prompts_per_round=2 --config.nft.images_per_prompt=4',
  r'sana-jax train --config finetune_lora:shapes ': '--config.num_steps=1 '
  '--config.batch_size=4 --config.model.unroll=1 '
  '--config.pictures_every_steps=0 --config.sampling.steps=1',
  r'sana-jax train --config shapes_controlnet ': '--config.num_steps=1 '
  '--config.data.examples=16 --config.data.path=out/small '
  '--config.batch_size=8 --config.optimizer.warmup_steps=0 '
  '--config.model.unroll=1 --config.pictures_every_steps=0',
  r'--config shapes_text_encoder ': '--config.num_steps=1 '
  '--config.text.examples=32 --config.batch_size=8 --config.model.depth=1 '
  '--config.optimizer.warmup_steps=0',
  r'--profile 2:4 ': '--config.num_steps=3',
}
# Commands that are checked and not run in full: a pattern, its replacement,
# and the reason.
CHECKED = (
  (
    r'^(sana-jax launch (?!--where local).*)',
    r'\1 --dry-run --no-plan',
    'needs a cluster',
  ),
  (
    r'^(sana-jax plan (?=.*--topology)(?!.*--shardings).*)',
    r'refused \1',
    'needs a compiler of the extras tpu or gpu, and minutes: ends there',
  ),
  (
    r'^sana-jax train (--config dc_ae_f32c32_phase\d .*)',
    r'sana-jax launch --where local --topology h200:1x1x8 --dry-run '
    r'--no-plan \1',
    'needs 8 GPUs for hours',
  ),
  (
    r'^sana-jax train (--config sana_1600m_1024_sft .*)',
    r'sana-jax launch --where local --topology h200:1x1x8 --dry-run '
    r'--no-plan \1 && ln -s trial out/own',
    'needs a model of a hub and GPUs; the trial before has the same inputs',
  ),
  (
    r'^sana-jax train (--config finetune_lora .*)',
    r'sana-jax launch --where local --topology h200:1x1x1 --dry-run '
    r'--no-plan \1 && ln -s trial out/lora',
    'needs a model of a hub and a GPU; the trial before has the same inputs',
  ),
  (
    r"^(sana-jax sample .*--scorer 'http[^']*)(.*)",
    r'refused \1&retries=0\2',
    'needs a server with a judge: ends there',
  ),
  (
    r'^(sana-jax sample .*--scorer (?:clip|nvila):.*)',
    r'refused \1',
    'needs a judge of a hub: ends there',
  ),
  (
    r'^(python -m sana_jax.launch.new_shape .*)',
    r'\1 --help',
    'takes an hour',
  ),
  (
    r'^(python -m sana_jax.launch.small_model .*)',
    r'\1 --help',
    'takes hours; launch/quickstart runs the same stages',
  ),
  (
    r'^(python -m sana_jax.launch.shapes_preference .*)',
    r'\1 --help',
    'takes an hour',
  ),
  (
    r'^(sana-jax train --config shapes_dpo .*)',
    r'refused \1',
    'needs pairs of an hour before: ends there',
  ),
  (
    r'^tensorboard (.*)',
    r'! python -c "import tensorboard" || '
    r'python -m tensorboard.main \1 --inspect',
    'serves until it is stopped',
  ),
  (r'^docker build -f (\S+).*', r'test -f \1', 'needs docker'),
  (r'^ln -s "\$PWD/(\S+)" \.\./ComfyUI.*', r'test -d \1', 'needs ComfyUI'),
  (r'^kubectl .*', 'true', 'needs a cluster'),
  (r'^(sana-jax demo .*)', r'served \1', 'serves until it is stopped'),
)
# Placeholders, and files of other commands than the page's own.
FILLED = {
  '--config NAME ': '--config sana_600m_512 ',
  '--workdir out/run --to out/at_20000 --step 20000': '--workdir out/local '
  '--to out/at_1 --step 1',
  '"$OUT"': 'out/chip',
  '--model sana_1600m_1024_bf16 --lora': '--model shapes --lora',
}


def blocks(text, languages=('bash',)):
  """Blocks of code of a page's text in these languages; '' is no language."""
  found = re.findall(BLOCK, text, re.DOTALL | re.MULTILINE)
  return [block for name, block in found if name in languages]


def text(name):
  return (DOCS / f'{name}.md').read_text('utf-8')


def lines(page, languages):
  """Lines of a page's blocks, continued ones joined, without comments."""
  joined = ''.join(blocks(page, languages)).replace('\\\n', ' ')
  plain = (x.partition(' #')[0] for x in joined.splitlines())
  return [re.sub(r'\s+', ' ', x).strip() for x in plain]


def commands(page):
  """Commands of a page's text, each in one line; the rest is their output."""
  return [x for x in lines(page, ['', 'bash']) if re.match(STARTS, x)]


def before_commands(page):
  """A page's text before its first block of commands."""
  for match in re.finditer(BLOCK, page, re.DOTALL | re.MULTILINE):
    if commands(match[0]):
      return page[: match.start()]
  return page


def smaller(command):
  """The command with the smallest sizes, or the check in its place."""
  for old, new in FILLED.items():
    command = command.replace(old, new)
  for pattern, flags in SMALLER.items():
    if re.search(pattern, f'{command} '):
      command += f' {flags}'
  for pattern, instead, _ in CHECKED:
    command = re.sub(pattern, instead, command)
  return command
