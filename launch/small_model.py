"""Train the small SANA from scratch, then sample and score it.

  python -m sana_jax.launch.small_model --out out/small           (hours)
  python -m sana_jax.launch.small_model --out out/quick --quick   (minutes)

It trains three models by three configs: the autoencoder and the text encoder
in parallel, each on one core, then the transformer on all cores. An interrupted
stage is resumed, a completed one is not repeated.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import shlex
import subprocess
import sys
import time

PROMPTS = (
  'a red circle left of a blue square',
  'three green stars',
  'a purple triangle and an orange circle',
  'a yellow square',
  'a blue star above a red triangle',
  'a circle and a star',
  'four orange squares',
  'a green triangle',
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all stages; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m sana_jax.launch.small_model',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument(
    '--quick',
    action='store_true',
    help='smaller and shorter: a few minutes on 2 cores',
  )
  args = parser.parse_args(argv)
  out, began = pathlib.Path(args.out), time.monotonic()
  data = f'--config.data.path={out / "data"}'
  variant = ':quick' if args.quick else ''
  out.mkdir(parents=True, exist_ok=True)

  headline('1/4  Drawing `shapes`, captioned scenes with known content.')
  size = 64 if args.quick else 128
  run(['data', 'shapes', '--out', str(out / 'data'), '--size', str(size)])
  headline(
    '2/4  Training the autoencoder; beside it, on another core, the text '
    f'encoder (its log: {out / "text_encoder.log"}).'
  )
  together(out, variant, data)
  headline(
    '3/4  Training the transformer. Loss curve and sample grids appear in '
    f'{out / "sana"}.'
  )
  run(
    train('shapes' + variant, out / 'sana')
    + [
      data,
      f'--config.autoencoder={out / "dc_ae" / "model"}',
      f'--config.text_encoder={out / "text_encoder" / "model"}',
    ]
  )
  headline(
    '4/4  Sampling and scoring, on prompts that were held out of training.'
  )
  model = str(out / 'sana' / 'model')
  prompts = [part for p in PROMPTS for part in ('--prompt', p)]
  run(
    [
      'sample',
      '--model',
      model,
      *prompts,
      '--num-images',
      '2',
      '--out',
      str(out / 'pictures'),
    ]
  )
  run(
    [
      'evaluate',
      '--model',
      model,
      '--out',
      str(out / 'scores'),
      '--per-kind',
      '20' if args.quick else '40',
    ]
  )
  finish(out, model, time.monotonic() - began)
  return 0


def headline(text: str) -> None:
  """Prints a headline between the commands' output."""
  print(
    f'\n\033[1m{text}\033[0m' if sys.stdout.isatty() else f'\n{text}',
    flush=True,
  )


def train(config: str, workdir: pathlib.Path) -> list[str]:
  """Arguments of `sana-jax train` for one stage."""
  return ['train', '--config', config, '--workdir', str(workdir)]


def command(arguments: Sequence[str]) -> list[str]:
  """Command line of sana-jax in this environment."""
  return [sys.executable, '-m', 'sana_jax.launch.cli', *arguments]


def run(arguments: Sequence[str]) -> None:
  """Runs a command in a subprocess; exits if it fails."""
  code = subprocess.run(command(arguments), check=False).returncode
  if code:
    sys.exit(code)


def together(out: pathlib.Path, variant: str, data: str) -> None:
  """Trains the autoencoder and the text encoder in parallel, one core each."""
  one = ['--cpu-devices', '1', data]
  encoder = command(train('shapes_dc_ae' + variant, out / 'dc_ae') + one)
  text = command(
    train('shapes_text_encoder' + variant, out / 'text_encoder') + one
  )
  log = out / 'text_encoder.log'
  with (
    log.open('ab') as file,
    on_core(0, encoder) as first,
    on_core(1, text, stdout=file, stderr=file) as second,
  ):
    codes = first.wait(), second.wait()
  if codes[1]:
    print(f'The text encoder failed; its log is {log}.', file=sys.stderr)
  if any(codes):
    sys.exit(max(codes))


def on_core(index: int, arguments: Sequence[str], **files) -> subprocess.Popen:
  """Starts a process pinned to one core, where that is supported."""

  def pin():
    if hasattr(os, 'sched_setaffinity'):
      cores = sorted(os.sched_getaffinity(0))
      os.sched_setaffinity(0, {cores[index % len(cores)]})

  return subprocess.Popen(arguments, preexec_fn=pin, **files)


def finish(out: pathlib.Path, model: str, seconds: float) -> None:
  """Prints the results' paths and commands to try next."""
  headline(f'Done in {seconds / 60:.1f} minutes.')
  print(f"""  pictures    {out / 'pictures' / 'contact_sheet.png'}
  score       the table above; its pictures in {out / 'scores' / 'scores.png'}
  loss curve  {out / 'sana' / 'loss.png'}
  model       {model} (diffusers layout)

Try next, in {pathlib.Path.cwd()}:""")
  for arguments in to_try(out, model):
    print(f'  {shlex.join([program(), *arguments])}')


def to_try(out: pathlib.Path, model: str) -> list[list[str]]:
  """Arguments of sana-jax for a first look at the results."""
  prompt = 'a red star above a blue circle'
  mine = ['--num-images', '4', '--out', str(out / 'mine')]
  longer = {
    'num_steps': 8000,
    'data.path': out / 'data',
    'autoencoder': out / 'dc_ae' / 'model',
    'text_encoder': out / 'text_encoder' / 'model',
  }
  return [
    ['sample', '--model', model, '--prompt', prompt, *mine],
    ['evaluate', '--model', 'shapes', '--suite', 'shapes'],
    train('shapes:quick', out / 'again')
    + [f'--config.{key}={value}' for key, value in longer.items()],
  ]


def program() -> str:
  """The command sana-jax for the user's shell.

  A path, unless the virtual environment is activated there.
  """
  if os.environ.get('VIRTUAL_ENV') == sys.prefix:
    return 'sana-jax'
  path = pathlib.Path(sys.executable).parent / 'sana-jax'
  here = pathlib.Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == '__main__':
  sys.exit(main())
