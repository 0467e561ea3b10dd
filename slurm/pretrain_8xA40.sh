#!/bin/bash
# Pretrain on one node with 8 GPUs, from the project's folder:
#   sbatch slurm/pretrain_8xA40.sh --data DIR ... --output DIR [section.field=value ...]
# Arguments go to spacescale/pretrain.py and win over the defaults below. slurm/README.md has more.
#   sbatch slurm/pretrain_8xA40.sh
# checks the cluster: trains a small model on the embedded data, into runs/JOBNAME-JOBID.
#SBATCH --job-name=spacescale-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --mem=256G
#SBATCH --time=8-0
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail

[[ -n ${SLURM_JOB_ID:-} ]] || { echo "error: submit it: sbatch $0 …" >&2; exit 2; }
if (($# == 0)); then
  set -- --preset space_demo --output "runs/$SLURM_JOB_NAME-$SLURM_JOB_ID"
fi
previous=''
output=''
for argument in "$@"; do
  [[ $previous != --output ]] || output=$argument
  [[ $argument != --output=* ]] || output=${argument#*=}
  previous=$argument
done
[[ -n $output ]] || { echo "error: give --output DIR too" >&2; exit 2; }

venv=${SPACESCALE_VENV:-.venv}
[[ -f $venv/bin/activate ]] || {
  echo "error: no virtual environment at $venv; make one or set SPACESCALE_VENV" >&2
  exit 2
}
# shellcheck source=/dev/null
. "$venv/bin/activate"

# The address Slurm itself uses for the first node: its name need not resolve.
read -r first_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(scontrol show node "$first_node" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
export MASTER_ADDR=${MASTER_ADDR:-$address}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
export PYTHONUNBUFFERED=1

# When asked to stop for a while (time limit, preemption) the ranks save, rank 0 leaves this
# marker, and all exit with 0. An exit code could not say it: --kill-on-bad-exit would end the ranks
# that are still saving.
marker=$output/REQUEUE
rm -f "$marker"

# Python installs its handlers a moment after it starts; until then both signals are ignored.
# shellcheck disable=SC2016  # expanded by each rank
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c '
  trap "" USR1 TERM
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python -m spacescale.pretrain "$@"' rank \
  --deepspeed ds_configs/8xA40.json --preset space_large --resume auto parallel.ep_size=1 "$@" &
srun_pid=$!

cancelled=false
trap 'kill -USR1 "$srun_pid" || true' USR1 # before the time limit; Slurm tells only this script
trap 'cancelled=true' TERM                 # scancel; the ranks get a TERM of their own

while kill -0 "$srun_pid" 2>/dev/null; do wait "$srun_pid" || true; done # a trap ends a wait early
status=0
wait "$srun_pid" || status=$?

# A rank that died makes srun end the others with TERM: that is a failure, whatever they saved.
if [[ $status == 0 && -e $marker && $cancelled == false ]]; then
  rm "$marker"
  echo "saved and stopped; job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
