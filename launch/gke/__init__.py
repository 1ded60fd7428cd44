"""JobSet of Kubernetes for GKE, and the equivalent command of xpk."""

import dataclasses
import json
import pathlib
import shlex

from sana_jax.errors import UserError
from sana_jax.interpreter import module
from sana_jax.launch import templates, tools
from sana_jax.launch.supervise import policy_words
from sana_jax.launching.job import environment, Job, train_arguments
from sana_jax.launching.machines import GPUS, TPUS

FILE = 'jobset.yaml'
_PORT = 8476  # Port of JAX's coordinator, for GPUs.
_GRACE_SECONDS = 300
_TOKEN_KEY = 'hf_api_token'  # As in Google's guides.


def write(job: Job) -> str:
  """Writes the manifest. Values are JSON, a subset of YAML."""
  machines, tpu = job.machines, job.machines.kind == 'tpu'
  # Kubernetes expands $(NAME) in command and args; it is intended only here.
  literal = _without_variables(job)
  supervise = [
    *module('sana_jax.launch.supervise', 'python'),
    f'--workdir={literal.workdir}',
    f'--notes={literal.workdir.rstrip("/")}/attempts-$(JOBSET).json',
    '--once',
    '--process=$(SLICE)-$(HOST)',
    *policy_words(job.policy),
    '--',
  ]
  return templates.fill(
    f'gke/{FILE}',
    {
      'title': f'{job.config} on {machines.name}, by sana-jax launch.',
      'name': json.dumps(job.name),  # Unquoted, YAML reads null as none.
      'restarts': str(job.policy.restarts),
      'slices': str(machines.slices),
      'hosts': str(machines.hosts),
      'grace_seconds': str(_GRACE_SECONDS),
      # Slices reach each other and their data faster without a bridge.
      'host_network': 'hostNetwork: true\n              '
      'dnsPolicy: ClusterFirstWithHostNet' * tpu,
      'node_selector': json.dumps(selector(job)),
      'tolerations': json.dumps(tolerations(job)),
      'image': _json(job.image),
      'environment': '\n                    '.join(
        f'- {json.dumps(variable)}' for variable in variables(job)
      ),
      'volumes': json.dumps(volumes(job)),
      'mounts': json.dumps(mounts(job)),
      'supervise': _json(supervise),
      'train': _json(['sana-jax', *train_arguments(literal, distributed(job))]),
      'limits': json.dumps({resource(job): machines.devices}),
    },
  )


def selector(job: Job) -> dict[str, str]:
  """Node labels that the job selects."""
  machines = job.machines
  spot = {'cloud.google.com/gke-spot': 'true'} if job.spot else {}
  if machines.kind == 'gpu':
    return {'cloud.google.com/gke-accelerator': GPUS[machines.chip]} | spot
  return {
    'cloud.google.com/gke-tpu-accelerator': TPUS[machines.chip].gke,
    'cloud.google.com/gke-tpu-topology': machines.grid,
  } | spot


def tolerations(job: Job) -> list[dict[str, str]]:
  """Tolerations of the taints of such nodes."""
  found = [{'key': resource(job), 'operator': 'Exists', 'effect': 'NoSchedule'}]
  if job.spot:
    found += [
      {
        'key': 'cloud.google.com/gke-spot',
        'operator': 'Equal',
        'value': 'true',
        'effect': 'NoSchedule',
      }
    ]
  return found


def variables(job: Job) -> list[dict]:
  """Environment variables of the container, besides those of its pod."""
  found = [{'name': k, 'value': v} for k, v in environment(job).items()]
  if job.hf_token_secret:
    name, _, key = job.hf_token_secret.partition(':')
    secret = {'name': name, 'key': key or _TOKEN_KEY}
    found += [{'name': 'HF_TOKEN', 'valueFrom': {'secretKeyRef': secret}}]
  return found


def volumes(job: Job) -> list[dict]:
  """Volumes of the pod: the claims of --mount."""
  return [
    {'name': name, 'persistentVolumeClaim': {'claimName': mount.claim}}
    for name, mount in _claims(job)
  ]


def mounts(job: Job) -> list[dict]:
  """Folders of the container where the volumes are mounted."""
  return [
    {'name': name, 'mountPath': mount.path} for name, mount in _claims(job)
  ]


def _claims(job):
  """Name of a volume and mount, for each mount with a claim."""
  claims = [mount for mount in job.mounts if mount.claim]
  return [(f'mount-{i}', mount) for i, mount in enumerate(claims)]


def resource(job: Job) -> str:
  """Resources that a pod requests."""
  return 'google.com/tpu' if job.machines.kind == 'tpu' else 'nvidia.com/gpu'


def distributed(job: Job) -> list[str]:
  """Arguments of --distributed: the Job's processes for GPUs, none for TPUs."""
  machines = job.machines
  if machines.processes == 1:
    return []
  if machines.kind == 'tpu':
    return ['--distributed']
  first = f'{job.name}-slice-0-0.{job.name}:{_PORT}'
  return [f'--distributed={first},{machines.processes},$(HOST)']


def _without_variables(job: Job) -> Job:
  """Escapes the job's texts for command and args of a container."""
  return dataclasses.replace(
    job,
    config=_literal(job.config),
    workdir=_literal(job.workdir),
    layout=job.layout and _literal(job.layout),
    overrides=tuple(map(_literal, job.overrides)),
  )


def _literal(text: str) -> str:
  """Escapes $ as $$, which Kubernetes unescapes everywhere."""
  return text.replace('$', '$$')


def _json(value) -> str:
  # YAML's \u has only 16 bits.
  return json.dumps(value, ensure_ascii=False)


def apply(path: pathlib.Path) -> str:
  """Passes the file to kubectl; returns its output."""
  words = ['kubectl', 'apply', '-f', str(path)]
  tools.require(
    'kubectl',
    f'{path} is written: run {shlex.join(words)} with access to the cluster',
  )
  return tools.call(words)


def xpk(job: Job) -> str:
  """Command of xpk, which has its own JobSet, node labels and restarts.

  xpk inserts --command into a line of a bash script, in a container's command,
  where Kubernetes expands $.
  """
  machines = job.machines
  if machines.kind != 'tpu':
    raise UserError(
      f'--xpk is for TPUs, not for --topology={machines.name}; '
      'leave it out for a JobSet.',
      key='--xpk',
      value=machines.name,
      allowed='TPUs',
    )
  if missing := [
    key for key in ('cluster', 'zone', 'project') if not getattr(job, key)
  ]:
    raise UserError(
      f'--xpk needs --{" and --".join(missing)}.', key=f'--{missing[0]}'
    )
  train = shlex.join(['sana-jax', *train_arguments(job, distributed(job))])
  return shlex.join(
    [
      'xpk',
      'workload',
      'create',
      f'--workload={job.name}',
      f'--cluster={job.cluster}',
      f'--zone={job.zone}',
      f'--project={job.project}',
      f'--tpu-type={TPUS[machines.chip].xpk}-{machines.grid}',
      f'--num-slices={machines.slices}',
      f'--docker-image={job.image}',
      f'--max-restarts={job.policy.restarts}',
      f'--command={_literal(train)}',
    ]
  )
