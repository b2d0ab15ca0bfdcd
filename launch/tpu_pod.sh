#!/usr/bin/env bash
# Pretrains on all hosts of one or several TPU slices until the run is done; see --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TPU="${TPU:-k3m}"                        # names of the slices (TPU VMs), separated by blanks
ZONE="${ZONE:-us-central1-a}"            # theirs
PROJECT="${PROJECT:-}"                   # Google Cloud's; empty: gcloud's own setting
DIRECTORY="${DIRECTORY:-k3m_jax}"        # of the code on each host, in the home folder
CACHE="${CACHE:-.cache/k3m_compiled}"    # compiled programs, kept on each host; gs://… shares them
LOGS="${LOGS:-runs/logs}"                # here: ATTEMPT/SLICE-WORKER.log
RESTARTS="${RESTARTS:-50}"               # at most
PAUSE="${PAUSE:-30}"                     # seconds before a restart
PATIENCE="${PATIENCE:-900}"              # seconds that a host waits for an earlier run to end
INSTALL="${INSTALL-requirements-tpu.txt requirements-gcs.txt}" # on each host; empty: nothing
REMOTE_PYTHON="${REMOTE_PYTHON:-}"       # Python >= 3.11 on the hosts; empty: the one found there

usage() {
  cat <<'TEXT'
usage: [VARIABLE=value …] ./launch/tpu_pod.sh [--dry-run] [--help] FLAGS

Copies the committed code to every host of the slices, installs it, and runs
`python -m launch.pretrain FLAGS` on all of them at once, each with a log of its own. What happens
then depends on how that ends (docs/launching.md):

  0          everywhere: the run is finished, this ends with 0
  2          anywhere: a mistake that no restart repairs; its message is shown, this ends with 2
  otherwise  stopped by a signal (75), or a crash: started again from the last checkpoint, at most
             RESTARTS times; then this ends with that code

Ctrl-C or SIGTERM here makes the hosts save and stop, and ends with 75.

  TPU="k3m-0 k3m-1" ZONE=us-central1-a ./launch/tpu_pod.sh --config=configs/tpu_v5e_256.py \
      --workdir=gs://BUCKET/runs/first --config.data.sources=/mnt/shards

--dry-run prints the commands instead. The variables, with their defaults, stand at the top of this
file: TPU, ZONE, PROJECT, DIRECTORY, CACHE, LOGS, RESTARTS, PAUSE, PATIENCE, INSTALL, REMOTE_PYTHON.
TEXT
}

dry=""
case "${1:-}" in
  -h | --help)
    usage
    exit
    ;;
  --dry-run)
    dry=1
    shift
    ;;
esac
if (($# == 0)); then
  usage >&2
  exit 2
fi
# A mistyped option of this script must not start a run: launch.pretrain has these two alone.
for flag; do
  if [[ "$flag" == -* && "$flag" != --config[=.]* && "$flag" != --workdir=* ]]; then
    echo "error: $flag: --dry-run stands first; --config=…, --config.…=… and --workdir=… follow" >&2
    exit 2
  fi
done
read -ra slices <<<"$TPU"
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})

# What it runs is what it prints.
tpu_vm() {
  if [[ -n "$dry" ]]; then
    echo "gcloud compute tpus tpu-vm ${*@Q}"
  else
    gcloud compute tpus tpu-vm "$@"
  fi
}

# Prints the addresses of a slice's hosts, in the order of their numbers.
addresses() {
  if [[ -n "$dry" ]]; then
    echo "ADDRESS-OF-$1"
  else
    gcloud compute tpus tpu-vm describe "$1" "${where[@]}" \
      --format="value(networkEndpoints[].ipAddress)" | tr ';,' '  '
  fi
}

on_all_hosts() {
  local slice
  for slice in "${slices[@]}"; do
    tpu_vm ssh "$slice" "${where[@]}" --worker=all --command="$1"
  done
}

install() {
  local archive="code.tar.gz" slice
  if [[ -z "$dry" ]]; then
    archive="$(mktemp -d)/code.tar.gz"
    git archive --format=tar.gz --output="$archive" HEAD
  fi
  for slice in "${slices[@]}"; do
    tpu_vm scp "$archive" "$slice:$DIRECTORY.tar.gz" "${where[@]}" --worker=all
  done
  on_all_hosts "mkdir -p $DIRECTORY && tar -xzf $DIRECTORY.tar.gz -C $DIRECTORY && cd $DIRECTORY && \
${REMOTE_PYTHON:+export K3M_PYTHON=$REMOTE_PYTHON && }\
source launch/environment.sh && prepare_environment requirements.txt $INSTALL"
}

# Prints the command for the hosts of slice number $1; the rest are the flags of the run.
remote_command() {
  local variables=("JAX_COMPILATION_CACHE_DIR=$CACHE")
  [[ "$CACHE" == *://* || "$CACHE" == /* ]] || variables=("JAX_COMPILATION_CACHE_DIR=\$HOME/$CACHE")
  if ((${#slices[@]} > 1)); then
    variables+=("MEGASCALE_COORDINATOR_ADDRESS=$coordinator")
    variables+=("MEGASCALE_NUM_SLICES=${#slices[@]}" "MEGASCALE_SLICE_ID=$1")
  fi
  shift
  # The lock is the process' own and goes with it, also where a connection was lost and the process
  # was not: two of them would fight for the chips.
  echo "cd $DIRECTORY && exec 9>run.lock && { flock --wait $PATIENCE 9 || exit 75; } &&" \
    "echo \$\$ >run.pid && exec env ${variables[*]} .venv/bin/python -m launch.pretrain ${*@Q}"
}

# Runs on all hosts, waits for them, and leaves the code that stands for all of theirs in `code`.
attempt() {
  local folder="$LOGS/$1" slice worker hosts processes=() status
  shift
  [[ -n "$dry" ]] || mkdir -p "$folder"
  for slice in "${!slices[@]}"; do
    hosts="$(addresses "${slices[slice]}")"
    worker=0
    for _ in $hosts; do
      if [[ -n "$dry" ]]; then
        tpu_vm ssh "${slices[slice]}" "${where[@]}" --worker=$worker \
          --command="$(remote_command "$slice" "$@")"
      else
        tpu_vm ssh "${slices[slice]}" "${where[@]}" --worker=$worker \
          --command="$(remote_command "$slice" "$@")" \
          >"$folder/${slices[slice]}-$worker.log" 2>&1 </dev/null &
        processes+=($!)
      fi
      worker=$((worker + 1))
    done
  done
  code=0
  for process in "${processes[@]}"; do
    status=0
    wait "$process" || status=$?
    # A signal to this script ends `wait` but not the process.
    while kill -0 "$process" 2>/dev/null; do
      status=0
      wait "$process" || status=$?
    done
    if ((status == 2 || (status && !code))); then code=$status; fi
  done
}

stop() {
  stopping=1
  echo "asking the hosts to save and stop" >&2
  # Only where a run holds the lock is run.pid its number.
  on_all_hosts "cd $DIRECTORY && { flock --nonblock run.lock true || kill -TERM \$(cat run.pid); }" \
    >/dev/null 2>&1 </dev/null || echo "not all of them could be reached" >&2
}

coordinator="$(addresses "${slices[0]}")"
coordinator="${coordinator%% *}" # process 0 is the first host of the first slice
[[ -z "$INSTALL" ]] || install
stopping=""
if [[ -z "$dry" ]]; then trap stop INT TERM; fi
for ((number = 0; ; number++)); do
  if [[ -n "$stopping" ]]; then
    echo "stopped: run the same command to go on" >&2
    exit 75
  fi
  attempt "$number" "$@"
  case "$code" in
    0)
      [[ -n "$dry" ]] || echo "finished; the logs are in $LOGS/$number"
      exit
      ;;
    2)
      grep -h "^error: " "$LOGS/$number"/*.log | sort -u >&2 || echo "see $LOGS/$number" >&2
      exit 2
      ;;
  esac
  if [[ -z "$stopping" ]]; then
    if ((number >= RESTARTS)); then
      echo "error: ended with $code, after $RESTARTS restarts; the logs are in $LOGS/$number" >&2
      exit "$code"
    fi
    echo "ended with $code (logs in $LOGS/$number), started again in $PAUSE s" >&2
    sleep "$PAUSE" &
    wait $! || true
  fi
done
