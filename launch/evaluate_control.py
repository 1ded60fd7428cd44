"""`sana-jax evaluate --suite control`: a ControlNet on held-out scenes.

Rows are the net, its base without it, and the autoencoder alone, which encodes
and decodes the true scenes: what its frozen decoder can draw.
"""

import argparse
import dataclasses
import json

from sana_jax import files
from sana_jax.errors import UserError
from sana_jax.launch import output, pipelines

LAYOUTS = ('free', 'grid')
_COLUMNS = 'layout  what         overlap follows images'


def run(args: argparse.Namespace) -> int:
  """Draws and scores; returns the exit code."""
  import numpy as np

  from sana_jax.data.shapes import controls, render
  from sana_jax.evaluation import shapes_control
  from sana_jax.inference.images import contact_sheet, write_png

  pipe, settings = pipelines.open_pipeline(args)
  if len(pipe.controlnets) != 1:
    raise UserError(
      f'--suite=control needs one ControlNet, and there are '
      f'{len(pipe.controlnets)}; add --controlnet.',
      key='--controlnet',
      value=len(pipe.controlnets),
      allowed=(1,),
    )
  rows, sheet = [], None
  for layout in LAYOUTS:
    scenes = shapes_control.suite(args.per_kind, args.seed, layout)
    hints = [controls.masks(s, pipe.size_px) for s in scenes]
    true = np.stack([render(s, pipe.size_px) for s in scenes])
    base = pipe.replace(controlnets=())
    made = {
      'net': drawn(pipe, scenes, args, settings, hints),
      'base': drawn(base, scenes, args, settings),
      'autoencoder': decoded(pipe, true, args.batch_size),
    }
    rows += [
      {'layout': layout, 'what': what}
      | dataclasses.asdict(shapes_control.score(images, scenes))
      for what, images in made.items()
    ]
    if sheet is None:
      shown = range(0, len(scenes), max(1, len(scenes) // 12))
      sheet = contact_sheet(
        [x for i in shown for x in (hints[i], made['net'][i])],
        [x for i in shown for x in (scenes[i].caption, '')],
        8,
      )
  print(table(rows))
  if args.out:
    with output.folder(args.out) as out:
      write_png(out / 'scores.png', sheet)
      record = {'model': args.model, 'controlnets': args.controlnet}
      record |= {'seed': args.seed, **settings, 'scores': rows}
      files.write_text(out / 'scores.json', json.dumps(record, indent=2) + '\n')
  return 0


def table(rows) -> str:
  """Text table of the scores."""
  return '\n'.join(
    [
      _COLUMNS,
      *(
        f'{r["layout"]:<7} {r["what"]:<12} {r["overlap"]:7.3f} '
        f'{r["accuracy"]:7.3f} {r["images"]:6d}'
        for r in rows
      ),
    ]
  )


def drawn(pipe, scenes, args, settings, hints=None):
  """One picture for each scene, with seeds from --seed on."""
  import numpy as np

  out = []
  for start in range(0, len(scenes), args.batch_size):
    rows = slice(start, start + args.batch_size)
    control = {} if hints is None else {'control_image': hints[rows]}
    chunk = scenes[rows]
    out += list(
      np.asarray(
        pipe.draw(
          [s.caption for s in chunk],
          seed=[args.seed + start + i for i in range(len(chunk))],
          **control,
          **settings,
        )
      )
    )
  return out


def decoded(pipe, images, batch_size):
  """The images after the autoencoder."""
  import jax
  import numpy as np

  from sana_jax.inference import decoding
  from sana_jax.tasks.sana.encoders import encode_images

  encode = jax.jit(encode_images, static_argnums=0)
  out = []
  for start in range(0, len(images), batch_size):
    latents = encode(*pipe.autoencoder, images[start : start + batch_size])
    out += list(np.asarray(decoding.to_uint8(pipe.decode(latents))))
  return out
