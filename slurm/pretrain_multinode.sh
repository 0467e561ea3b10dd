#!/bin/bash
# Pretrain on several nodes with 8 GPUs each, from the project's folder:
#   sbatch --nodes=4 slurm/pretrain_multinode.sh --data DIR ... --output DIR [section.field=value ...]
# Arguments go to spacescale/pretrain.py and win over the defaults below. slurm/README.md has more.
#   sbatch slurm/pretrain_multinode.sh
# checks the cluster: trains a small model on the embedded data, into runs/JOBNAME-JOBID.
#SBATCH --job-name=spacescale-multinode
#SBATCH --nodes=2
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

pretrain slurm/pretrain_multinode.sh \
  --deepspeed ds_configs/multinode.json --preset space_large --resume auto -- "$@"
