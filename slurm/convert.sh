#!/bin/bash
# Export the newest checkpoint of a run as plain weights, from the project's folder; needs no GPU:
#   sbatch slurm/convert.sh RUN [OUT]
# OUT is RUN/exports/step-N unless given. After a training job, if it succeeds:
#   sbatch --dependency=afterok:JOBID slurm/convert.sh RUN
#SBATCH --job-name=spacescale-convert
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=64G
#SBATCH --time=4:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail

[[ -f slurm/common.sh ]] || { echo "error: submit it from the project's folder" >&2; exit 2; }
. slurm/common.sh

(($# == 1 || $# == 2)) || refuse "give RUN [OUT]"
enter_environment
step=$(newest_checkpoint "$1")
[[ -n $step ]] || refuse "$1: no checkpoint to convert"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
exec spacescale convert "$1/checkpoints/$step" --out "${2:-$1/exports/$step}"
