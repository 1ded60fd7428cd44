"""Dashboards of a run: TensorBoard's event files, and Weights & Biases.

Both get the numbers of metrics.jsonl and the sample grids. TensorBoard's own
record writer is used, which does not import TensorFlow. A dashboard that fails
is closed with one warning; the run continues.
"""

from collections.abc import Callable, Mapping
import importlib.util
import io
import secrets
import socket
import time
from typing import Any

from absl import logging
from etils import epath
import ml_collections
from PIL import Image

from sana_jax import extras
from sana_jax.errors import UserError
from sana_jax.printable import printable
from sana_jax.training.workdir import write_atomically
from sana_jax.tree import flatten


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError if the run wants a dashboard whose package is missing."""
  if config.get('wandb') and importlib.util.find_spec('wandb') is None:
    raise extras.missing('wandb', f'config.wandb={config.wandb}')


class TensorBoard:
  """Writer of an event file; the first event ends an earlier run's steps."""

  def __init__(self, workdir: epath.Path):
    """Opens the file; its package must be there."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    self._event = event_pb2.Event
    self._path = workdir / (
      f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}'
      # Readers sort by name: a run that is restarted within a second is last.
      f'.{time.time_ns()}'
    )
    self._is_remote = '://' in str(workdir)
    # Objects of a bucket cannot be appended to.
    self._file = io.BytesIO() if self._is_remote else self._path.open('wb')
    self._records = RecordWriter(self._file)
    self._has_begun = False
    self._add(self._event(file_version='brain.Event:2'))

  def write_scalars(
    self, step: int, scalars: Mapping[str, float | int]
  ) -> None:
    """Writes numbers by name."""
    event = self._begun(step)
    for name, value in scalars.items():
      event.summary.value.add(tag=name, simple_value=value)
    self._add(event)
    self._file.flush()

  def write_image(self, step: int, image: Image.Image) -> None:
    """Writes a picture, and a bucket's object."""
    png = io.BytesIO()
    image.save(png, format='PNG')
    event = self._begun(step)
    value = event.summary.value.add(tag='samples')
    value.image.width, value.image.height = image.size
    value.image.colorspace = 3
    value.image.encoded_image_string = png.getvalue()
    self._add(event)
    self._upload()

  def close(self) -> None:
    """Completes the file."""
    self._upload()
    self._file.close()

  def _begun(self, step):
    if not self._has_begun:
      event = self._event(step=step)
      event.session_log.status = 1  # START: steps from here on are replaced.
      self._add(event)
      self._has_begun = True
    return self._event(step=step)

  def _add(self, event):
    event.wall_time = time.time()
    self._records.write(event.SerializeToString())

  def _upload(self):
    self._file.flush()
    if self._is_remote:
      write_atomically(self._path, self._file.getvalue())


class WeightsAndBiases:
  """A run of a project, continued by later starts in the same workdir."""

  def __init__(self, workdir: epath.Path, config: ml_collections.ConfigDict):
    """Starts the run; UserError if the service refuses it."""
    import wandb

    self._image = wandb.Image
    try:
      self._run = wandb.init(
        project=config.wandb,
        id=_run_id(workdir / 'wandb_run.txt'),
        resume='allow',
        dir=None if '://' in str(workdir) else str(workdir),
        config=flatten(config, '.'),
      )
    except Exception as e:  # The package's own types vary by version.
      reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
      raise UserError(
        f'config.wandb={config.wandb}: Weights & Biases cannot be reached '
        f'({printable(reason, 200)}); run wandb login, set '
        'WANDB_MODE=offline, or leave the key out.',
        key='wandb',
        value=config.wandb,
      ) from e

  def write_scalars(
    self, step: int, scalars: Mapping[str, float | int]
  ) -> None:
    """Logs numbers by name."""
    self._run.log(dict(scalars), step=step)

  def write_image(self, step: int, image: Image.Image) -> None:
    """Logs a picture."""
    self._run.log({'samples': self._image(image)}, step=step)

  def close(self) -> None:
    """Ends the run, after its last upload."""
    self._run.finish()


def _run_id(path):
  """The id in a file of the workdir, which is written at the first start."""
  if path.exists() and (found := path.read_text().strip()):
    return found
  made = secrets.token_hex(8)
  write_atomically(path, made.encode())
  return made


class Boards:
  """All dashboards of a run, which never stop it."""

  def __init__(self, *opened: Any):
    self._opened = list(opened)

  def write_scalars(
    self, step: int, scalars: Mapping[str, float | int]
  ) -> None:
    self._each(lambda board: board.write_scalars(step, scalars))

  def write_image(self, step: int, image: Image.Image) -> None:
    self._each(lambda board: board.write_image(step, image))

  def close(self) -> None:
    self._each(lambda board: board.close())

  def _each(self, call: Callable[[Any], None]) -> None:
    for board in list(self._opened):
      try:
        call(board)
      except Exception as e:  # noqa: BLE001  A dashboard is no part of a run.
        self._opened.remove(board)
        logging.warning(
          '%s gets no more lines (%s); metrics.jsonl has all.',
          type(board).__name__,
          printable(e, 200),
        )


def opened(workdir: epath.Path, config: ml_collections.ConfigDict) -> Boards:
  """The dashboards of a run; a missing TensorBoard is logged once."""
  boards = []
  if config.get('wandb'):  # First, as it may raise an error.
    boards.append(WeightsAndBiases(workdir, config))
  try:
    boards.append(TensorBoard(workdir))
  except ModuleNotFoundError as e:
    logging.warning(
      'TensorBoard gets no file: the package %s is missing; install it with '
      '%s. metrics.jsonl has all numbers.',
      e.name,
      extras.install('train'),
    )
  return Boards(*boards)
