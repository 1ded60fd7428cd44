"""Files for tests, written by the reference libraries."""

import io
import json
import tarfile

from array_record.python.array_record_module import ArrayRecordWriter
import msgpack
import numpy as np
from PIL import Image
import pyarrow
from pyarrow import parquet as pq

from sana_jax.data.records import BadRecord


def encoded(height=12, width=20, color=(255, 0, 0), kind='png', **options):
  buffer = io.BytesIO()
  Image.new('RGB', (width, height), color).save(buffer, kind, **options)
  return buffer.getvalue()


def noisy(height=64, width=96, kind='png', seed=0):
  """An image that does not compress, so that a cut truncates its pixels."""
  pixels = np.random.default_rng(seed).integers(
    0, 256, (height, width, 3), np.uint8
  )
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()


def failures(source):
  """Name and reason of every record that cannot be read."""
  out = {}
  for index in range(len(source)):
    try:
      source[index]
    except BadRecord as bad:
      out[bad.name] = bad.reason
  return out


def tar(*members, **options):
  """Bytes of a tar of (name, text, JSON or bytes)."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w', **options) as archive:
    for name, content in members:
      if not isinstance(content, bytes):
        content = (
          content if isinstance(content, str) else json.dumps(content)
        ).encode()
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


def sample(key, caption, **options):
  return (f'{key}.png', encoded(**options)), (f'{key}.txt', caption)


def parquet_file(path, rows, **options):
  pq.write_table(pyarrow.Table.from_pylist(rows), path, **options)
  return path


def array_record(path, records):
  """Writes an ArrayRecord file of maps, or of raw bytes."""
  writer = ArrayRecordWriter(str(path), 'group_size:1')
  for record in records:
    writer.write(record if isinstance(record, bytes) else msgpack.packb(record))
  writer.close()
  return path
