#!/bin/bash
# bardlet on two nodes of eight GPUs under SLURM: sbatch slurm.sh
#SBATCH --job-name=bardlet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --output=bardlet-%j.log
set -eu

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
launch=(
    torchrun --nnodes="$SLURM_NNODES" --nproc_per_node=8
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$first:29500"
    -m bardlet
)
export OMP_NUM_THREADS=1

srun "${launch[@]}" launch-check --out_dir=out
srun "${launch[@]}" train gpt2-124m --out_dir=out/gpt2-124m
