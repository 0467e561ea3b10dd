#!/bin/bash
# Make a species dataset on many nodes, from the project's folder; this script submits the jobs:
#   slurm/shard_array.sh PARTS --species NAME --fasta FILE --targets FILE --out DIR [options ...]
# One job prepares, PARTS jobs read the tracks, PARTS jobs write the shards, one finishes; each step
# waits for the one before. After a failure the same command continues. What follows PARTS goes to
# data_prep/shard.py. DIR must be on a disk that all nodes share.
# SHARD_SBATCH: options of sbatch that win over those below, such as "--partition=cpu --time=1-0".
set -euo pipefail
. "$(dirname "$0")/common.sh"

parts=${1:-}
[[ $parts =~ ^[1-9][0-9]*$ ]] ||
  refuse "the first argument must be the number of parts, found '$parts'"
shift

find_environment

# Every process takes less than 2 GiB, however many tracks there are.
read -r -a options <<<"--cpus-per-task=8 --mem-per-cpu=2G --time=12:00:00 --requeue ${SHARD_SBATCH:-}"
command=$(printf '%q ' python data_prep/shard.py "$@")

submit() { # STAGE PART SBATCH-OPTION... ; prints the job's number
  local stage=$1 part=$2
  shift 2
  sbatch --parsable --job-name="shard-$stage" --kill-on-invalid-dep=yes "${options[@]}" "$@" --wrap="
    . $(printf %q "$venv")/bin/activate &&
    exec $command --stage $stage $part --workers \$SLURM_CPUS_PER_TASK"
}

each="--part \$SLURM_ARRAY_TASK_ID/$parts"
prepare=$(submit prepare "")
tracks=$(submit tracks "$each" --array="1-$parts" --dependency="afterok:$prepare")
shards=$(submit shards "$each" --array="1-$parts" --dependency="afterok:$tracks")
finish=$(submit finish "" --dependency="afterok:$shards")
echo "submitted: prepare $prepare, tracks $tracks, shards $shards, finish $finish"
