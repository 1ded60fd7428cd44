"""Generate pictures in a web page, on this machine.

  sana-jax demo --model shapes

Open the address that it prints. Other machines have access only with --host and
--allow-host. Size, steps and number of a request's pictures are limited, and so
is the queue. Programs send JSON to /api/draw. Ctrl-C ends it.
"""

import argparse
import importlib.util
import ipaddress
import socket
import sys

from sana_jax.errors import UserError
from sana_jax.launch import control, pipelines
from sana_jax.launch.flags import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's flags."""
  parser.add_argument(
    '--model',
    required=True,
    metavar='NAME',
    help='a folder, a hub id, a zoo name, or shapes',
  )
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    metavar='ADDRESS',
    help='0.0.0.0 lets other machines in, without a password '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--allow-host',
    action='append',
    default=[],
    metavar='NAME',
    help='a name or address by which other '
    'machines or a proxy reach the demo; may be repeated',
  )
  parser.add_argument(
    '--port',
    type=whole(0, 65535),
    default=7860,
    metavar='N',
    help='0 for any free one (default: %(default)s)',
  )
  pipelines.add_lora(parser)
  control.add_model_arguments(parser)
  _limit_flags(parser)
  pipelines.add_device_arguments(parser)
  # The page starts with the model's recommendations.
  parser.set_defaults(
    **dict.fromkeys(
      (
        'steps',
        'guidance_scale',
        'sampler',
        'guidance_interval',
        'pag_scale',
        'apg_eta',
        'flow_shift',
      )
    )
  )


def _limit_flags(parser):
  """Declares the limits of a request."""
  parser.add_argument(
    '--max-size',
    type=whole(),
    metavar='PX',
    help="of a side (default: twice the model's own)",
  )
  parser.add_argument(
    '--max-steps',
    type=whole(1, 1000),
    default=50,
    metavar='N',
    help='default: %(default)s',
  )
  parser.add_argument(
    '--max-images',
    type=whole(1, 64),
    default=4,
    metavar='N',
    help='at once (default: %(default)s)',
  )
  parser.add_argument(
    '--max-previews',
    type=whole(0, 16),
    default=4,
    metavar='N',
    help='unfinished pictures shown while one is sampled; 0 for none '
    '(default: %(default)s)',
  )
  parser.add_argument(
    '--max-queue',
    type=whole(),
    default=16,
    metavar='N',
    help='requests that may be drawn or waiting at once (default: %(default)s)',
  )


def run(args: argparse.Namespace) -> int:
  """Serves until interrupted."""
  if importlib.util.find_spec('gradio') is None:  # Before a model is loaded.
    raise ModuleNotFoundError("No module named 'gradio'", name='gradio')
  _check_one_net(len(args.controlnet))
  served = names(args.host, args.allow_host)
  with listening(args.host, args.port) as door:
    pipe, settings = pipelines.open_pipeline(args, encoder=True)
    _check_one_net(len(pipe.controlnets))
    allowed = limits(args, pipe)
    from sana_jax.inference import page, serving  # Take seconds.
    from sana_jax.inference.request_queue import RequestQueue

    line = RequestQueue(args.max_queue)
    app = page.app(pipe, settings, args.model, allowed, line, served)
    announce(door, served)
    serving.serve(app, door, line)
  return 0


def _check_one_net(count):
  """Raises UserError for several ControlNets, of which the page has one."""
  if count > 1:
    raise UserError(
      f'The demo has {count} ControlNets, and its page has one control image; '
      'give --controlnet once, and not for a model that has its own.',
      key='--controlnet',
      value=count,
      allowed='one',
    )


def names(host: str, others: list[str]) -> list[str]:
  """Accepted host names: loopback, --host and each --allow-host."""
  from sana_jax.inference import hosts

  return [*hosts.LOOPBACK, *map(hosts.name, [host, *others])]


def limits(args: argparse.Namespace, pipe):
  """Limits from the flags, given the model's own size."""
  from sana_jax.inference.demo import Limits

  size = args.max_size or 2 * pipe.size_px
  least = pipe.autoencoder.module.spec.side
  if size < least:
    raise UserError(
      f'--max-size={size} is less than the smallest picture that '
      f'the model can make; give {least} or more.',
      key='--max-size',
      value=size,
    )
  return Limits(size, args.max_steps, args.max_images, args.max_previews)


def listening(host: str, port: int) -> socket.socket:
  """Opens a socket at the address, before anything else is done."""
  try:
    family, kind, _, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM
    )[0]
  except (OSError, UnicodeError) as e:
    raise UserError(
      f'--host={host} is not an address of this machine; give '
      '127.0.0.1 or 0.0.0.0.',
      key='--host',
      value=host,
    ) from e
  door = socket.socket(family, kind)
  try:
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(address)
  except OSError as e:
    door.close()
    raise _taken(host, port, e) from e
  return door


def _taken(host, port, error):
  return UserError(
    f'--host={host} --port={port} cannot be listened at '
    f'({error.strerror}); choose another.',
    key='--port',
    value=port,
  )


def announce(door: socket.socket, served: list[str]) -> None:
  """Prints the demo's address and starts accepting connections."""
  host, port = door.getsockname()[:2]
  try:
    door.listen()
  except OSError as e:  # Another process that started with it was faster.
    raise _taken(host, port, e) from e
  shown = f'[{host}]' if ':' in host else host
  if not ipaddress.ip_address(host).is_loopback:
    print(
      'sana-jax: every machine that can reach this one may use the demo by '
      f'the names {", ".join(served)} (--allow-host adds one); there is no '
      'password.',
      file=sys.stderr,
    )
  print(f'The demo is at http://{shown}:{port}', flush=True)
