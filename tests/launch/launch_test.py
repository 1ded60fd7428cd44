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
  'more, expected',
  [
    (
      ['--where', 'slrum', '--topology', 'cpu:2x2'],
      r'--where=slrum is unknown \(did you mean slurm\?\); allowed are '
      'slurm, gke, tpu-vm, local',
    ),
    (
      [*CPU[:2], '--topology', 'v5:4x4'],
      'unknown chip.*did you mean v5',
    ),
    ([*CPU[:2], '--topology', 'v5e:3x3', '--no-plan'], 'similar ones are'),
    (
      ['--where', 'slurm', '--topology', 'v5e:4x4', '--no-plan'],
      '--where=slurm, which has GPUs and CPUs; choose --where=gke or tpu-vm',
    ),
    (
      ['--where', 'tpu-vm', '--topology', 'h200:1x1x8', '--no-plan'],
      'which has TPUs; choose --where=slurm or gke or local',
    ),
    (GKE[:-2], '--where=gke requires --image'),
    (VM[:5], '--where=tpu-vm requires --image; --where=tpu-vm requires --zone'),
    (
      [*H200, '--zone', 'z'],
      '--zone is not for --where=slurm but for gke and tpu-vm',
    ),
    (
      [*GKE, '--partition', 'p'],
      '--partition is not for --where=gke but for slurm',
    ),
    ([*H200, '--name', 'Not a name'], '--name=Not a name must be 40 or fewer'),
    ([*H200, '--time-limit', 'long'], '--time-limit=long must be a time'),
    (
      ['--where', 'local', '--topology', 'h200:1x2x8', '--no-plan'],
      'is 2 hosts, and --where=local is one',
    ),
    ([*VM, '--topology', 'tpu7x:2x2x2'], 'tpu7x is for --where=gke only'),
    (
      [*GKE, '--topology', 'v5e:2x2@2'],
      'GKE joins slices of several hosts only',
    ),
    ([*GKE, '--topology', 'h200:1x1x4'], 'GKE has h200 machines with 8 GPUs'),
    ([*GKE, '--cluster', 'c'], 'are for --xpk'),
    ([*GKE, '--xpk'], '--xpk needs --cluster and --zone and --project'),
    ([*H200, '--xpk'], '--xpk is not for --where=slurm but for gke'),
    ([*H200, '--restarts', '-1'], 'give a whole number from 0'),
    ([*H200, '--wait-seconds', 'x'], 'give a number of 0 or more'),
    ([*H200, '--config.batch_sise=3'], 'There is no config.batch_sise'),
    ([*H200, '--config.batch_size=0'], 'batch_size=0 must be positive'),
    ([*H200, '--layout', 'fdsp'], 'there is no such file; shipped are dp'),
    (
      [*GKE, '--layout', 'mine.py'],
      '--layout=mine.py is a file of this machine',
    ),
    ([*H200, '--mount', '/data'], '--mount is not for --where=slurm'),
    ([*VM, '--mount', 'a:/b'], '--mount=a:/b names a claim of Kubernetes'),
    ([*GKE, '--mount', 'a:/shared'], '--mount=/shared is given twice'),
    ([*VM, '--hf-token-secret', 'a'], '--hf-token-secret is not for'),
    ([*GKE, '--xpk', '--hf-token-secret', 'a'], 'is not for --xpk'),
    ([*VM, '--config.init_from=out/a/b'], 'config.init_from=out/a/b is a path'),
    ([*H200, '--topolgy', 'x'], "Unknown argument '--topolgy'"),
  ],
)
def test_a_bad_argument_is_a_one_line_error(
  more, expected, launch, refused, tmp_path
):
  message = refused(*launch(*more, '--out', tmp_path / 'out'))
  assert re.search(expected, message), message
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('more', [H200, GKE, VM])
def test_hosts_need_a_workdir_that_all_have(more, launch, refused):
  assert '--workdir=out/run must be the same for all hosts' in refused(
    *launch(*more, workdir='out/run')
  )


def test_all_problems_are_reported_at_once(launch, refused):
  message = refused(
    *launch(*H200, '--zone', 'z', '--name', '-', '--image', 'i')
  )
  assert message.count(';') == 2 and '--zone' in message


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
  message = refused(*launch(*more))
  assert message.startswith(f'There is no {command} on this machine; ')
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
  assert re.search(
    f'^{command} .* failed: no such queue', refused(*launch(*more))
  )


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
  assert 'it has a % or a \\' in refused(*launch(*H200, '--out', 'a%t'))


def test_a_template_and_its_values_name_the_same():
  with pytest.raises(KeyError, match='differ'):
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
