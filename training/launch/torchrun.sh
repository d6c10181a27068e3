#!/usr/bin/env bash
# Train on the GPUs of this machine, or of several, with torchrun: a pre-flight check, then the run.
#
#   training/launch/torchrun.sh instruct-7b                                   # all GPUs of this machine
#   NODES=2 NODE_RANK=0 MASTER_ADDR=node0 training/launch/torchrun.sh RECIPE  # and with NODE_RANK=1 on the other
#
# Settings: GPUS (of a node), NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, PYTHON. Whatever follows goes to the recipe.
# SIGTERM or SIGUSR1 to this script: the run saves behind its next step and ends. Started again, it goes on there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ $# -lt 1 ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

python=${PYTHON:-.venv/bin/python}
gpus=${GPUS:-$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
port=${MASTER_PORT:-29500}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
child=

# torchrun knows nothing of SIGUSR1 and gives its workers 30 s after a SIGTERM. So it ignores the one and never gets the
# other: its workers, who save on SIGUSR1, are told directly.
tell_workers() {
    if [[ -n $child ]]; then pkill -USR1 -P "$child" || true; fi
}
trap tell_workers TERM USR1

launch() { # PORT COMMAND...
    (
        trap '' USR1
        exec "$python" -m torch.distributed.run --nnodes "${NODES:-1}" --node-rank "${NODE_RANK:-0}" \
            --nproc-per-node "$gpus" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "$1" \
            -m training "${@:2}"
    ) &
    child=$!
    local status=0
    while true; do # a signal ends `wait` early
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    if [[ $status -gt 128 ]]; then status=0; wait "$child" || status=$?; fi # ... perhaps just before the end
    child=
    return "$status"
}

# Two ports, for the first may still be waiting to be free when the second is wanted.
launch "$((port + 1))" preflight "$@"
launch "$port" run "$@"
