"""sana-jax launch: errors, and the written files."""

import configparser
import os
import pathlib
import re
import stat
import subprocess

import pytest

from sana_jax.launch import templates

pytestmark = pytest.mark.fast

ROOT = pathlib.Path(__file__).parents[2]

H200 = ['--where', 'slurm', '--topology', 'h200:1x2x8', '--no-plan']
THERE = ['--mount', '/shared', '--config.inputs.cache=gs://bucket/cache']
GKE = [
  *('--where', 'gke', '--topology', 'v5e:4x4', '--no-plan', *THERE),
  *('--image', 'i'),
]
VM = [
  '--where',
  'tpu-vm',
  '--topology',
  'v5e:4x4',
  '--no-plan',
  '--image',
  'i',
  '--zone',
  'z',
  *THERE,
]
CPU = ['--where', 'local', '--topology', 'cpu:2x2']


@pytest.fixture
def launch(tmp_path, monkeypatch):
  """Arguments, with a config and a workdir."""
  monkeypatch.chdir(tmp_path)
  return lambda *more, workdir='/shared/run': (
    'launch',
    '--config',
    'sana_1600m_1024',
    '--workdir',
    workdir,
    *more,
  )


@pytest.mark.parametrize(
  'more, key, value, allowed',
  [
    (
      ['--where', 'slrum', '--topology', 'cpu:2x2'],
      '--where',
      'slrum',
      'slurm gke tpu-vm local',
    ),
    ([*CPU[:2], '--topology', 'v5:4x4'], '--topology', 'v5:4x4', 'v5e v5p'),
    (
      [*CPU[:2], '--topology', 'v5e:3x3', '--no-plan'],
      '--topology',
      'v5e:3x3',
      '',
    ),
    (
      ['--where', 'slurm', '--topology', 'v5e:4x4', '--no-plan'],
      '--where',
      'slurm',
      'gke tpu-vm',
    ),
    (
      ['--where', 'tpu-vm', '--topology', 'h200:1x1x8', '--no-plan'],
      '--where',
      'tpu-vm',
      'slurm gke local',
    ),
    (GKE[:-2], '--image', None, ''),
    (VM[:5], '--image', None, ''),
    ([*VM[:5], '--image', 'i', *THERE], '--zone', None, ''),
    ([*H200, '--zone', 'z'], '--zone', 'z', '--where=gke --where=tpu-vm'),
    ([*GKE, '--partition', 'p'], '--partition', 'p', '--where=slurm'),
    ([*H200, '--name', 'Not a name'], '--name', 'Not a name', '40'),
    ([*H200, '--time-limit', 'long'], '--time-limit', 'long', 'minutes'),
    (
      ['--where', 'local', '--topology', 'h200:1x2x8', '--no-plan'],
      '--topology',
      'h200:1x2x8',
      '',
    ),
    (
      [*VM, '--topology', 'tpu7x:2x2x2'],
      '--topology',
      'tpu7x:2x2x2',
      'v4 v5e v5p v6e',
    ),
    ([*GKE, '--topology', 'v5e:2x2@2'], '--topology', 'v5e:2x2@2', ''),
    ([*GKE, '--topology', 'h200:1x1x4'], '--topology', 'h200:1x1x4', '8'),
    ([*GKE, '--cluster', 'c'], '--cluster', 'c', ''),
    ([*GKE, '--zone', 'z'], '--zone', 'z', ''),
    ([*GKE, '--xpk'], '--cluster', None, ''),
    ([*H200, '--xpk'], '--xpk', 'slurm', 'gke'),
    ([*H200, '--restarts', '-1'], '--restarts', '-1', '0'),
    ([*H200, '--wait-seconds', 'x'], '--wait-seconds', 'x', '0'),
    ([*H200, '--config.batch_sise=3'], 'batch_sise', '3', 'batch_size'),
    ([*H200, '--config.batch_size=0'], 'batch_size', 0, ''),
    ([*H200, '--config.data.split=a\nb'], 'data.split', 'a\nb', ''),
    ([*H200, '--layout', 'fdsp'], '--layout', 'fdsp', 'dp fsdp'),
    ([*GKE, '--layout', 'mine.py'], '--layout', 'mine.py', 'dp fsdp'),
    (
      [*H200, '--mount', '/data'],
      '--mount',
      ('/data',),
      '--where=gke --where=tpu-vm',
    ),
    ([*VM, '--mount', 'a:/b'], '--mount', 'a:/b', '/b'),
    ([*GKE, '--mount', 'a:/shared'], '--mount', '/shared', ''),
    (
      [*VM, '--hf-token-secret', 'a'],
      '--hf-token-secret',
      'a',
      '--where=gke',
    ),
    ([*GKE, '--xpk', '--hf-token-secret', 'a'], '--hf-token-secret', 'a', ''),
    ([*VM, '--config.init_from=out/a/b'], 'init_from', 'out/a/b', ''),
    ([*H200, '--topolgy', 'x'], '--topolgy', '--topolgy', '--topology'),
  ],
)
def test_a_bad_argument_is_a_one_line_error(
  more, key, value, allowed, launch, refused, tmp_path
):
  error = refused(*launch(*more, '--out', tmp_path / 'out')).error
  assert (error.key, error.value) == (key, value)
  found = error.allowed
  named = found.split() if isinstance(found, str) else map(str, found or ())
  assert {word.strip('.,:;') for word in named} >= set(allowed.split())
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('more', [H200, GKE, VM])
def test_hosts_need_a_workdir_that_all_have(more, launch, refused):
  error = refused(*launch(*more, workdir='out/run')).error
  assert (error.key, error.value) == ('--workdir', 'out/run')
  assert 'gs://' in error.allowed


def test_all_problems_are_reported_at_once(launch, refused):
  message = refused(
    *launch(*H200, '--zone', 'z', '--name', '-', '--image', 'i')
  )
  for flag in ('--name', '--zone', '--image'):
    assert message.count(flag) == 1


@pytest.mark.parametrize(
  'more, file, command',
  [
    (H200, 'job.sbatch', 'sbatch'),
    (GKE, 'jobset.yaml', 'kubectl'),
    (VM, 'job.sh', 'gcloud'),
  ],
)
def test_a_missing_command_is_reported_and_the_file_is_written(
  more, file, command, launch, refused, tmp_path, monkeypatch, cli
):
  monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))
  code, dry, _ = cli(*launch(*more, '--dry-run'))
  assert code == 0 and not (tmp_path / 'out').exists()
  error = refused(*launch(*more)).error
  assert (error.key, error.value) == ('PATH', command)
  path = tmp_path / 'out/launch/sana-1600m-1024' / file
  assert path.read_text() == dry


@pytest.mark.parametrize(
  'more, command, words',
  [(H200, 'sbatch', 'job.sbatch'), (GKE, 'kubectl', 'apply -f .*jobset.yaml')],
)
def test_the_file_is_handed_over(
  more, command, words, launch, cli, refused, tmp_path, monkeypatch
):
  tool = tmp_path / 'bin' / command
  tool.parent.mkdir()
  tool.write_text('#!/bin/sh\necho "args: $@"\nexit ${CODE:-0}\n')
  tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('PATH', f'{tool.parent}:{os.environ["PATH"]}')
  code, out, _ = cli(*launch(*more))
  assert code == 0 and re.search(f'args: .*{words}', out)
  tool.write_text('#!/bin/sh\necho "no such queue" >&2\nexit 1\n')
  message = refused(*launch(*more))
  assert (message.key, message.error.value) == (command, 1)
  assert 'no such queue' in message  # By the tool.


def test_a_dry_run_here_prints_the_commands(launch, cli, tmp_path):
  code, out, _ = cli(
    *launch(
      *CPU, '--dry-run', '--config.batch_size=8', workdir=str(tmp_path / 'run')
    )
  )
  assert code == 0 and not list(tmp_path.iterdir())
  lines = out.splitlines()
  assert len(lines) == 2
  for i, line in enumerate(lines):
    assert re.fullmatch(
      'JAX_PLATFORMS=cpu sana-jax train --config=sana_1600m_1024 '
      rf'--workdir=.*/run --cpu-devices=2 --distributed=localhost:\d+,2,{i} '
      rf'--config.batch_size=8 >>.*/run/logs/process-{i}.log 2>&1',
      line,
    ), line


def sbatch(cli, launch, *more):
  code, out, err = cli(*launch(*more, '--dry-run'))
  assert code == 0, err
  return out


def test_a_job_of_slurm_has_a_process_a_node(cli, launch):
  text = sbatch(
    cli,
    launch,
    '--where',
    'slurm',
    '--topology',
    'h200:1x4x8',
    '--no-plan',
    '--time-limit',
    '1-00',
    '--partition',
    'gpu',
    '--account',
    'a_b',
  )
  for line in (
    'nodes=4',
    'ntasks-per-node=1',
    'gpus-per-node=8',
    'requeue',
    'time=1-00',
    'partition=gpu',
    'account=a_b',
    'open-mode=append',
  ):
    assert f'#SBATCH --{line}\n' in text, line
  # Otherwise JAX gives a process under SLURM one GPU.
  assert 'export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n' in text
  assert '/process-%t.log' in text and text.endswith(' --distributed\n')


def test_every_option_of_slurm_comes_before_the_first_command(cli, launch):
  # sbatch reads no further.
  lines = sbatch(cli, launch, *H200).splitlines()
  first = next(i for i, x in enumerate(lines) if x and not x.startswith('#'))
  assert lines[0] == '#!/usr/bin/env bash'
  assert not [x for x in lines[first:] if x.startswith('#SBATCH')]


@pytest.mark.parametrize(
  'more',
  [
    H200,
    VM,
    [*H200, '--config.data.split=it\'s "x" $(date) `date`; rm x'],
    [*VM, '--config.data.split=it\'s "x" $(date) `date`; rm x'],
  ],
)
def test_a_script_is_one_that_bash_reads(more, cli, launch, tmp_path):
  script = tmp_path / 'script'
  script.write_text(sbatch(cli, launch, *more))
  subprocess.run(['bash', '-n', script], check=True)


def test_a_value_reaches_training_as_it_was_given(cli, launch, tmp_path):
  odd = '--config.data.split=it\'s "x" $(date) `date`; $HOME %t'
  text = sbatch(cli, launch, *H200, odd)
  _, dashes, after = text.partition('-- srun')
  assert dashes
  words = after.replace('"$SLURM_CPUS_ON_NODE"', '8')
  done = subprocess.run(
    ['bash', '-c', f'printf "%s\\n" srun {words}'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.splitlines()[-1] == odd


def test_a_percent_sign_would_be_a_pattern_of_slurms(launch, refused):
  error = refused(*launch(*H200, '--out', 'a%t')).error
  assert error.key == '--out' and error.value.endswith('a%t')


def test_a_template_and_its_values_name_the_same():
  with pytest.raises(KeyError):
    templates.fill('slurm/job.sbatch', {'name': 'x'})


def test_the_container_file_pins_every_version():
  text = (ROOT / 'launch/Containerfile').read_text()
  assert re.search(r'^FROM python:3\.12-slim$', text, re.MULTILINE)
  assert (
    'pip install --constraint constraints.txt --editable ".[$EXTRAS]"' in text
  )
  extras = set(','.join(re.findall(r'EXTRAS=([\w,]+)', text)).split(','))
  declared = configparser.ConfigParser()
  declared.read(ROOT / 'setup.cfg')
  assert extras <= set(declared['options.extras_require'])


def test_an_image_has_what_is_installed_and_nothing_else():
  lines = (ROOT / 'launch/Containerfile.dockerignore').read_text().splitlines()
  kept = {line[1:] for line in lines if line.startswith('!')}
  declared = configparser.ConfigParser()
  declared.read(ROOT / 'setup.cfg')
  folders = {
    place.split('=')[1].strip()
    for place in declared['options']['package_dir'].strip().splitlines()
  }
  assert '*' in lines and kept == folders | {
    'LICENSE',
    'README.md',
    'constraints.txt',
    'pyproject.toml',
    'setup.cfg',
  }
