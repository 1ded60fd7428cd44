"""JobSets of every topology, checked offline against Kubernetes' schemas."""

import copy
import functools
import json
import pathlib
import re
import shlex

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sana_jax.launch import gke
from sana_jax.launch.launch import default_name
from sana_jax.launching import job as jobs
from sana_jax.launching import machines

JOBSET = json.loads(
  pathlib.Path(__file__).with_name('jobset_v1alpha2.json').read_text()
)
KUBERNETES = '1.37'
TOPOLOGIES = [
  *(
    f'{chip}:{"x".join(map(str, shape))}'
    for chip in machines.TPUS
    for shape in machines.shapes(2 if chip in ('v5e', 'v6e') else 3)
  ),
  'v6e:16x16@4',
  'v5p:4x4x8@2',
  'tpu7x:4x4x4@16',
  'a100:1x4x8',
  'a100:1x1x2',
  'h100:2x8x8',
  'h200:1x32x8',
  'b200:1x1x8',
]


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch):
  utils = kubernetes_validate.utils
  monkeypatch.setattr(
    utils, 'schema_contents', functools.cache(utils.schema_contents)
  )


def made(topology, **more):
  return jobs.Job(
    **{
      'where': 'gke',
      'name': 'run',
      'config': 'sana_1600m_1024',
      'out': 'out',
      'workdir': 'gs://bucket/run',
      'image': 'registry/sana_jax:1',
      'machines': machines.parse(topology),
      **more,
    }
  )


def manifest(job):
  return yaml.safe_load(gke.write(job))


def validate(found):
  """Raises for a field that is unknown, missing or of another type."""
  jsonschema.Draft202012Validator(JOBSET).validate(found)
  for replicated in found['spec']['replicatedJobs']:
    kubernetes_validate.validate(
      {
        'apiVersion': 'batch/v1',
        'kind': 'Job',
        'metadata': {'name': 'job'},
        **replicated['template'],
      },
      KUBERNETES,
      strict=True,
    )


def container(found):
  (job,) = found['spec']['replicatedJobs']
  (train,) = job['template']['spec']['template']['spec']['containers']
  return train


@pytest.mark.long
def test_every_topology_has_a_valid_manifest():
  for number, topology in enumerate(TOPOLOGIES):
    job = made(topology, spot=bool(number % 2))
    if '@' not in topology or job.machines.hosts > 1:
      jobs.check(job)
    found = manifest(job)
    validate(found)
    (replicated,) = found['spec']['replicatedJobs']
    chips = container(found)['resources']['limits'][
      'google.com/tpu' if job.machines.kind == 'tpu' else 'nvidia.com/gpu'
    ]
    hosts = replicated['template']['spec']['completions']
    assert replicated['replicas'] * hosts * chips == job.machines.chips


@pytest.mark.parametrize(
  'path, value',
  [
    (('spec', 'replicas'), 2),
    (('spec', 'failurePolicy', 'restarts'), 3),
    (('spec', 'replicatedJobs', 0, 'parallelism'), 4),
    (('spec', 'replicatedJobs', 0, 'template', 'spec', 'parallel'), 4),
    (
      (
        'spec',
        'replicatedJobs',
        0,
        'template',
        'spec',
        'template',
        'spec',
        'nodeSelectors',
      ),
      {},
    ),
    (
      (
        'spec',
        'replicatedJobs',
        0,
        'template',
        'spec',
        'template',
        'spec',
        'containers',
        0,
        'env',
        0,
        'from',
      ),
      {},
    ),
    (('spec', 'replicatedJobs', 0, 'replicas'), '2'),
    (('spec', 'replicatedJobs', 0, 'template', 'spec', 'completions'), '4'),
    (('metadata', 'name'), 'Not a name'),
    (('spec', 'failurePolicy', 'rules', 0, 'action'), 'Fail'),
  ],
)
def test_the_schemas_refuse_what_is_unknown_or_wrong(path, value):
  found = copy.deepcopy(manifest(made('v5e:4x4')))
  validate(found)
  node = functools.reduce(lambda n, key: n[key], path[:-1], found)
  node[path[-1]] = value
  with pytest.raises(jsonschema.ValidationError):
    validate(found)


@pytest.mark.parametrize(
  'topology, labels, limit',
  [
    # As in Google's examples and xpk's table.
    (
      'v6e:16x16@2',
      {'gke-tpu-accelerator': 'tpu-v6e-slice', 'gke-tpu-topology': '16x16'},
      {'google.com/tpu': 4},
    ),
    (
      'v5e:1x1',
      {
        'gke-tpu-accelerator': 'tpu-v5-lite-podslice',
        'gke-tpu-topology': '1x1',
      },
      {'google.com/tpu': 1},
    ),
    (
      'v5p:4x4x8',
      {'gke-tpu-accelerator': 'tpu-v5p-slice', 'gke-tpu-topology': '4x4x8'},
      {'google.com/tpu': 4},
    ),
    (
      'v4:2x2x4',
      {'gke-tpu-accelerator': 'tpu-v4-podslice', 'gke-tpu-topology': '2x2x4'},
      {'google.com/tpu': 4},
    ),
    (
      'tpu7x:2x2x2',
      {'gke-tpu-accelerator': 'tpu7x', 'gke-tpu-topology': '2x2x2'},
      {'google.com/tpu': 4},
    ),
    (
      'h200:1x4x8',
      {'gke-accelerator': 'nvidia-h200-141gb'},
      {'nvidia.com/gpu': 8},
    ),
    ('b200:1x4x8', {'gke-accelerator': 'nvidia-b200'}, {'nvidia.com/gpu': 8}),
  ],
)
def test_pods_go_to_these_nodes(topology, labels, limit):
  found = manifest(made(topology))
  pod = found['spec']['replicatedJobs'][0]['template']['spec']['template']
  assert pod['spec']['nodeSelector'] == {
    f'cloud.google.com/{key}': value for key, value in labels.items()
  }
  assert container(found)['resources']['limits'] == limit


def test_slices_are_replicas_and_hosts_are_pods():
  (job,) = manifest(made('v6e:16x16@2'))['spec']['replicatedJobs']
  spec = job['template']['spec']
  assert (job['replicas'], spec['parallelism'], spec['completions']) == (
    2,
    64,
    64,
  )
  # GPUs are one Job: the index of a pod is that of its process.
  found = manifest(made('h100:2x8x8'))
  (job,) = found['spec']['replicatedJobs']
  assert (job['replicas'], job['template']['spec']['completions']) == (1, 16)
  assert container(found)['args'][-1] == (
    '--distributed=run-slice-0-0.run:8476,16,$(HOST)'
  )


def test_a_container_trains_under_supervision():
  found = container(
    manifest(
      made('v5e:4x4', layout='fsdp', overrides=('--config.batch_size=64',))
    )
  )
  assert found['args'] == [
    'sana-jax',
    'train',
    '--config=sana_1600m_1024',
    '--workdir=gs://bucket/run',
    '--layout=fsdp',
    '--distributed',
    '--config.batch_size=64',
  ]
  command = found['command']
  # Pods start in the image's clone, whose sana_jax is not the whole package.
  assert command[:5] == [
    'python',
    '-u',
    '-P',
    '-m',
    'sana_jax.launch.supervise',
  ]
  assert {
    '--once',
    '--process=$(SLICE)-$(HOST)',
    '--notes=gs://bucket/run/attempts-$(JOBSET).json',
  } <= set(command)
  # All references for Kubernetes to replace exist.
  assert {e['name'] for e in found['env']} == {'SLICE', 'HOST', 'JOBSET'}


def test_what_looks_like_a_variable_stays_as_it_was_given():
  # Kubernetes turns $$ into $, and looks for names after the remaining $.
  found = container(
    manifest(
      made(
        'v5e:4x4',
        workdir='/$(SLICE)',
        config='a$$',
        layout='$',
        overrides=('--config.autoencoder=$$(HOME)/"x" \n: {🎉 $(HOST)',),
      )
    )
  )
  assert found['args'][1:] == [
    'train',
    '--config=a$$$$',
    '--workdir=/$$(SLICE)',
    '--layout=$$',
    '--distributed',
    '--config.autoencoder=$$$$(HOME)/"x" \n: {🎉 $$(HOST)',
  ]
  assert {
    '--workdir=/$$(SLICE)',
    '--notes=/$$(SLICE)/attempts-$(JOBSET).json',
    '--process=$(SLICE)-$(HOST)',
  } <= set(found['command'])


def test_pods_have_the_mounts_and_the_token_of_the_hub():
  found = manifest(
    made(
      'v5e:4x4',
      mount=('data:/data', '/in/the/image', 'data:/more'),
      hf_token_secret='hf-secret',
    )
  )
  validate(found)
  (job,) = found['spec']['replicatedJobs']
  pod = job['template']['spec']['template']['spec']
  claims = {
    v['name']: v['persistentVolumeClaim']['claimName'] for v in pod['volumes']
  }
  assert [
    (claims[m['name']], m['mountPath'])
    for m in container(found)['volumeMounts']
  ] == [('data', '/data'), ('data', '/more')]
  (token,) = [e for e in container(found)['env'] if e['name'] == 'HF_TOKEN']
  secret = {'name': 'hf-secret', 'key': 'hf_api_token'}
  assert token['valueFrom'] == {'secretKeyRef': secret}
  found = manifest(made('v5e:4x4', hf_token_secret='a:token'))
  assert container(found)['env'][-1]['valueFrom']['secretKeyRef'] == {
    'name': 'a',
    'key': 'token',
  }


def test_comments_show_where_settings_of_a_cluster_are_added():
  text = gke.write(made('v5e:4x4'))
  for words in ('--mount', '--hf-token-secret', 'requests:', 'gcsfuse'):
    assert re.search(rf'^ *#.*{words}', text, re.MULTILINE), words


@pytest.mark.parametrize('name', ['null', 'yes', 'on', 'n', 'true'])
def test_a_name_is_text_to_yaml(name):
  assert manifest(made('v5e:4x4', name=name))['metadata']['name'] == name


def test_exit_codes_of_no_use_fail_the_whole_set():
  found = manifest(made('v5e:4x4'))
  (rule,) = found['spec']['replicatedJobs'][0]['template']['spec'][
    'podFailurePolicy'
  ]['rules']
  assert (rule['action'], rule['onExitCodes']['values']) == ('FailJob', [2, 3])
  (rule,) = found['spec']['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet'
  # The reason that Kubernetes gives for FailJob.
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']


def test_the_xpk_command_requests_the_same():
  words = shlex.split(
    gke.xpk(
      made('v5p:4x4x8@2', cluster='pool', zone='us-east5-a', project='mine')
    )
  )
  assert words[:3] == ['xpk', 'workload', 'create']
  assert {
    '--tpu-type=v5p-4x4x8',
    '--num-slices=2',
    '--workload=run',
    '--docker-image=registry/sana_jax:1',
    '--cluster=pool',
    '--zone=us-east5-a',
    '--project=mine',
  } <= set(words)
  assert words[-1] == (
    '--command=sana-jax train --config=sana_1600m_1024 '
    '--workdir=gs://bucket/run --distributed'
  )


@pytest.mark.parametrize(
  'config, name',
  [
    ('sana_1600m_1024', 'sana-1600m-1024'),
    ('configs/shapes.py:quick', 'shapes'),
    ('my/_Odd  Name_.py', 'odd-name'),
    ('é.py', 'run'),
  ],
)
def test_a_name_is_made_of_the_config(config, name):
  assert default_name(config) == name
