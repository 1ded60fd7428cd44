#!/usr/bin/env bash
# {{title}}
#   bash job.sh           requests the machines and trains until it is done
#   bash job.sh logs      the log of process 0
#   bash job.sh stop      SIGTERM to all processes: they save
#   bash job.sh delete    gives the machines back, which is done after the end
set -euo pipefail
name={{name}}
# For the hosts' shell, and quoted once more for this one.
login={{login}}
train={{train}}
# The containers of all attempts are one run, so that a restart takes over its
# lock at once; %q, for the hosts' shell parses the words again.
printf -v identity ' --env=%q' "SANA_JAX_RUN=${SANA_JAX_RUN:-}" "SANA_JAX_ATTEMPT=${SANA_JAX_ATTEMPT:-}"
# Folders of the VMs are of --mount; a hub token, for gated models, would be one
# more --env.
run="sudo docker run --detach --name=$name --privileged --net=host{{volumes}}$identity $train"
place=({{place}})
machines=({{machines}})
tpus=(gcloud compute tpus queued-resources)

# On every host of every slice; the first exit code that is not 0.
on_all() { "${tpus[@]}" ssh "$name" "${place[@]}" --node=all --worker=all --command="$1"; }
delete() { "${tpus[@]}" delete "$name" "${place[@]}" --force --quiet; }
state() {
  "${tpus[@]}" list "${place[@]}" --filter="name~/$name\$" --format='value(state.state)'
}

# Waits for the machines, and requests preempted ones again.
provide() {
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    echo "$name is ${now:-not there}"
    case "$now" in
      '') "${tpus[@]}" create "$name" "${place[@]}" "${machines[@]}" ;;
      FAILED | SUSPENDED) delete ;;
      *) sleep "${POLL_SECONDS:-30}" ;;
    esac
  done
  [ "$now" = ACTIVE ]
}

attempt() {
  provide
  # gcloud contacts 64 hosts at a time: start all before waiting for any.
  on_all "${login}sudo docker rm --force $name >/dev/null 2>&1; $run"
  on_all "exit \$(sudo docker wait $name)"
  delete
}

case "${1:-}" in
  '') ;;
  attempt) attempt; exit ;;
  delete) delete; exit ;;
  stop) on_all "sudo docker kill --signal=TERM $name"; exit ;;
  logs) "${tpus[@]}" ssh "$name" "${place[@]}" --command="sudo docker logs --follow $name"; exit ;;
  *) sed -n '3,6s/^# *//p' "$0" >&2; exit 2 ;;
esac
rm -f {{notes}}
exec {{supervise}} \
  --notes={{notes}} \
  --stop-with=bash --stop-with="${BASH_SOURCE[0]}" --stop-with=stop \
  -- bash "${BASH_SOURCE[0]}" attempt
