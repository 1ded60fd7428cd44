"""The script for Cloud TPU VMs, run with a fake gcloud."""

import os
import re
import stat

import pytest

from sana_jax.launch import tpu_vm
from sana_jax.launching import job as jobs
from sana_jax.launching import machines

# Queued resources with a state in a file; ssh runs its command here.
GCLOUD = r"""
words="$*"
printf '%s\n' "$4" >>log
case "$4" in
  list) cat state 2>/dev/null ;;
  create) echo WAITING_FOR_RESOURCES >state; echo "$words" >>created ;;
  delete) rm state ;;
  ssh) [ "$(cat state)" = ACTIVE ] || exit 255
       bash -c "${words#*--command=}"; exit ;;
esac
[ "$4" != list ] || [ "$(cat state)" != WAITING_FOR_RESOURCES ] ||
  echo ACTIVE >state
"""
# Runs its command when it is waited for.
DOCKER = r"""
case "$1" in
  run) shift
       while [[ $1 == --* ]]; do
         [[ $1 != --env=* ]] || printf '%s\n' "${1#--env=}" >>environment
         shift
       done
       shift; printf '%q ' "$@" >container ;;
  wait) bash -c "$(cat container)" >&2; echo $? ;;
  kill) touch killed ;;
esac
"""
# The first time, the machines are preempted.
SANA_JAX = r"""
printf '%s\n' "$@" >>arguments
if [ -e seen ]; then mkdir -p run/checkpoints/8; exit 0; fi
touch seen; mkdir -p run/checkpoints/4; echo SUSPENDED >state; exit 255
"""


def made(topology, **more):
  return jobs.Job(
    **{
      'where': 'tpu-vm',
      'name': 'run',
      'config': 'sana_1600m_1024',
      'out': 'out',
      'workdir': 'gs://bucket/run',
      'image': 'us-docker.pkg.dev/mine/sana_jax:1',
      'zone': 'z',
      'machines': machines.parse(topology),
      **more,
    }
  )


@pytest.fixture
def pretend(tmp_path, monkeypatch):
  """Puts fake commands into PATH, which work in tmp_path."""

  def put(**scripts):
    folder = tmp_path / 'bin'
    folder.mkdir(exist_ok=True)
    for name, text in {'sudo': 'exec "$@"', **scripts}.items():
      path = folder / name
      path.write_text(f'#!/usr/bin/env bash\ncd {tmp_path}\n{text}\n')
      path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    monkeypatch.setenv('POLL_SECONDS', '0')

  return put


def launch(process, tmp_path, *more):
  return process(
    'launch',
    '--where',
    'tpu-vm',
    '--topology',
    'v5e:4x4',
    '--no-plan',
    '--config',
    'sana_1600m_1024',
    '--workdir',
    tmp_path / 'run',
    '--image',
    'registry/image',
    '--zone',
    'z',
    '--out',
    tmp_path / 'out',
    '--wait-seconds',
    '0',
    '--mount',
    tmp_path,
    '--config.inputs.cache=gs://bucket/cache',
    *more,
  )


@pytest.mark.long
def test_preempted_machines_are_requested_again(
  process, pretend, tmp_path, monkeypatch
):
  monkeypatch.setenv('SANA_JAX_RUN', 'a run; $(date)')
  pretend(gcloud=GCLOUD, docker=DOCKER, **{'sana-jax': SANA_JAX})
  odd = '--config.data.split=it\'s "x" $HOME $(date)'
  code, out, err = launch(process, tmp_path, '--spot', odd)
  assert code == 0, err
  # Requested twice, and released at the end.
  assert len((tmp_path / 'created').read_text().splitlines()) == 2
  assert not (tmp_path / 'state').exists()
  assert 'step 4' in err or '255' in err
  printed = (tmp_path / 'log').read_text().split()
  assert re.fullmatch(
    '(list )+create (list )+ssh ssh (list )+delete (list )+'
    'create (list )+ssh ssh delete ',
    ' '.join(printed) + ' ',
  )
  # The arguments pass unchanged through three shells.
  words = (tmp_path / 'arguments').read_text().splitlines()
  assert (
    words
    == [
      'train',
      '--config=sana_1600m_1024',
      f'--workdir={tmp_path / "run"}',
      '--distributed',
      '--config.inputs.cache=gs://bucket/cache',
      odd,
    ]
    * 2
  )
  # Both attempts are the same run, the second a later one.
  first, one, again, two = (tmp_path / 'environment').read_text().splitlines()
  assert first == again == 'SANA_JAX_RUN=a run; $(date)'
  assert (one, two) == ('SANA_JAX_ATTEMPT=0.0', 'SANA_JAX_ATTEMPT=0.1')


@pytest.mark.long
def test_it_is_given_up_without_progress(process, pretend, tmp_path):
  pretend(gcloud=GCLOUD, docker=DOCKER, **{'sana-jax': 'exit 77'})
  code, _, err = launch(process, tmp_path, '--restarts-without-progress', '1')
  assert code == 77
  assert '--restarts-without-progress' in err
  assert (tmp_path / 'log').read_text().count('ssh') == 4


@pytest.mark.parametrize(
  'topology, words',
  [
    # cloud.google.com/tpu/docs: v5p and v4 count cores, v5e and v6e chips.
    (
      'v5e:4x4',
      '--accelerator-type=v5litepod-16 '
      '--runtime-version=v2-alpha-tpuv5-lite --node-id=run',
    ),
    (
      'v6e:16x16',
      '--accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e '
      '--node-id=run',
    ),
    (
      'v5p:4x4x4@2',
      '--accelerator-type=v5p-128 '
      '--runtime-version=v2-alpha-tpuv5 --node-count=2',
    ),
    (
      'v4:2x2x2',
      '--type=v4 --topology=2x2x2 '
      '--runtime-version=tpu-ubuntu2204-base --node-id=run',
    ),
  ],
)
def test_these_machines_are_requested(topology, words):
  assert ' '.join(tpu_vm.machines(made(topology))) == words
  assert words in tpu_vm.write(made(topology))


def test_dockers_login_is_for_googles_registry_alone():
  assert 'configure-docker us-docker.pkg.dev' in tpu_vm.write(made('v5e:4x4'))
  for image in (
    'docker.io/me/sana_jax',
    'evilpkg.dev/a',
    'notgcr.io/a',
    'x.pkg.dev/a',
    'pkg.dev/a',
    'gcr.io.example.com/a',
    'gcr.io',
  ):
    assert tpu_vm.login(image) == '', image
  assert 'configure-docker eu.gcr.io ' in tpu_vm.login('eu.gcr.io/a/b')


def test_containers_have_the_folders_of_the_vms():
  text = tpu_vm.write(made('v5e:4x4', mount=('/mnt/a', '/b')))
  assert ' --volume=/mnt/a:/mnt/a --volume=/b:/b$identity' in text


def test_its_comments_name_what_it_does(tmp_path):
  text = tpu_vm.write(made('v5e:4x4'))
  named = re.findall(r'^#   bash job.sh (\w+)', text, re.MULTILINE)
  assert named == ['logs', 'stop', 'delete']
  for name in named:
    assert re.search(rf'^  {name}\) ', text, re.MULTILINE), name
