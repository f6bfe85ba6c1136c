#!/bin/bash
# One run on two machines with eight GPUs each:  sbatch examples/distributed/slurm.sh
#SBATCH --job-name=rosepo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Two minutes before the end, rosepo is asked to save what it has. The same command goes on: sbatch this file again.
#SBATCH --signal=TERM@120

set -euo pipefail

CONFIG=${CONFIG:-examples/distributed/ddp.yaml} # or fsdp.yaml, zero3.yaml
RUN=${RUN:-runs/two-machines}                   # on a disk that all machines share

# The model and the data are fetched once, so these folders must be on a disk that all machines share, too.
export ROSEPO_CACHE=${ROSEPO_CACHE:-$PWD/cache/rosepo}
export HF_HOME=${HF_HOME:-$PWD/cache/huggingface}

# How long the launchers wait for the processes to save what they have.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100

GPUS=${SLURM_GPUS_ON_NODE:-8}
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export CONFIG RUN GPUS FIRST

# One launcher on each machine; each starts one process for each GPU.
srun --kill-on-bad-exit=1 bash -c '
  exec accelerate launch \
    --config_file "$CONFIG" \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * GPUS))" \
    --main_process_ip "$FIRST" --main_process_port 29500 \
    --no_python rosepo train --config examples/quickstart.toml --run "$RUN"
'
