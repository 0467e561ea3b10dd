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

[[ -f slurm/common.sh ]] || { echo "error: submit it from the project's folder" >&2; exit 2; }
. slurm/common.sh

pretrain slurm/pretrain_8xA40.sh \
  --deepspeed ds_configs/8xA40.json --preset space_large --resume auto parallel.ep_size=1 -- "$@"
