#!/usr/bin/env bash
#SBATCH --job-name=favor
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Train on nodes of 8 A100 under SLURM: torchrun.sh on every node, which checks all nodes first.
#
#   sbatch training/launch/slurm.sh instruct-13b optimisation.steps=8000
#
# Submit from the repository; it must lie at the same place on all nodes, and so must the data and the output folder.
# Ten minutes before the time limit SLURM sends SIGUSR1: the run saves behind its next step and ends, and the job puts
# itself back into the queue. It goes on exactly where it stopped.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch, from the repository}"
if [[ $# -lt 1 ]]; then
    echo "usage: sbatch training/launch/slurm.sh RECIPE [KEY=VALUE ...]" >&2
    exit 2
fi

NODES=$SLURM_NNODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
GPUS=${SLURM_GPUS_ON_NODE:-8}
OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
export NODES MASTER_ADDR MASTER_PORT GPUS OMP_NUM_THREADS

# shellcheck disable=SC2016 # SLURM_NODEID differs on every node
srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec training/launch/torchrun.sh "$@"' node "$@" &
step=$!
is_time_up=0
trap 'is_time_up=1; scancel --signal=USR1 "$SLURM_JOB_ID.0"' USR1

while true; do # a signal ends `wait` early
    status=0
    wait "$step" || status=$?
    kill -0 "$step" 2>/dev/null || break
done
if [[ $status -gt 128 ]]; then status=0; wait "$step" || status=$?; fi

if [[ $is_time_up -eq 1 && $status -eq 0 ]]; then
    echo "time is nearly up: saved, and queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
