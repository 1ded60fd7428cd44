"""Grammars of names, with examples of their providers."""

import time

import pytest

from sana_jax.errors import UserError
from sana_jax.launching import fields

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
  'key, text',
  [
    ('project', 'my-project-123'),
    ('project', 'example.com:my-project'),
    ('project', '123456789012'),
    ('zone', 'northamerica-northeast1-a'),
    ('zone', 'us-central1-ai1a'),
    ('cluster', 'pool-1'),
    ('partition', 'gpu'),
    ('partition', 'gpu_long,gpu-a100.80'),
    ('account', 'lab+x@cluster_1'),
    ('time_limit', '1440'),
    ('time_limit', '24:00:00'),
    ('time_limit', '7-00'),
    ('time_limit', '1-12:30'),
    ('name', 'a'),
    ('name', 'a-1'),
    ('image', 'ghcr.io/a/b-c:latest'),
  ],
)
def test_names_of_providers_are_valid(key, text):
  assert fields.name_problem(key, text) is None


@pytest.mark.parametrize(
  'text',
  [
    'a' * 4096,
    'a-' * 2048,
    'a.' * 2000 + '!',
    'a/' * 2000 + '!',
    '-' * 4000,
    'a' + '_' * 4000 + '!',
    'a' + '-' * 4000,
    ',' * 4000,
  ],
)
def test_a_long_name_is_checked_quickly(text):
  began = time.perf_counter()
  for key in fields.GRAMMARS:
    fields.name_problem(key, text)
  assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
  'path',
  [
    '/a b',
    '~/run',
    'run',
    '/it\'s "$x"',
    'gs://bucket',
    'gs://bucket/a b/c',
    's3://my.bucket-1/x',
    '/日本/é',
    '/' + 'a' * 255,
  ],
)
def test_paths_are_valid(path):
  assert fields.path_problem('workdir', path) is None


def test_overrides_are_bounded_together():
  some = [f'--config.a={"x" * 4000}'] * 4
  assert not [p for p in fields.override_problems(some) if p]
  (problem,) = [p for p in fields.override_problems(some * 2) if p]
  assert problem.key == '--config' and problem.value > 16384
  assert str(fields.MOST_BYTES_TOGETHER) in problem.allowed


def test_a_problem_is_printable_and_short():
  for text in ('\33[2J' + 'x' * 3000, '\udcff', 'x' * 10**6):
    error = fields.text_problem('--image', text)
    problem = str(error)
    assert (error.key, error.value) == ('--image', text)
    assert problem.isprintable() and len(problem) < 400


def test_a_missing_home_folder_is_a_user_error():
  with pytest.raises(UserError) as error:
    fields.local_folder('out', '~nosuchuser/x')
  assert (error.value.key, error.value.value) == ('--out', '~nosuchuser/x')
