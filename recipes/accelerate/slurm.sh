#!/bin/bash
# A recipe on two nodes of a SLURM cluster: sbatch recipes/accelerate/slurm.sh recipes/grpo.py --config recipes/configs/grpo.yaml --output_dir runs/grpo --use_cpu false
# srun starts one launcher on each node; the launchers start a process for each GPU. The output directory must be one that all nodes see.
#SBATCH --job-name=bitsample
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
set -euo pipefail

export FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NUM_PROCESSES=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
export MAIN_PROCESS_PORT=${MAIN_PROCESS_PORT:-29511}  # another one where two jobs share a node

# the rank is the node's, so the words are put together there
srun bash -c 'exec accelerate launch --config_file recipes/accelerate/two_nodes_gpus.yaml --num_machines "$SLURM_NNODES" \
    --num_processes "$NUM_PROCESSES" --machine_rank "$SLURM_NODEID" --main_process_ip "$FIRST_NODE" \
    --main_process_port "$MAIN_PROCESS_PORT" "$@"' launch "$@"
