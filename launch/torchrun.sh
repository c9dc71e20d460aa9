#!/bin/bash
# Trains on this machine, or on several on each of which the same is typed; read it, copy it, change it.
#
#   bash launch/torchrun.sh model=llama_1b data.path=datasets/mine zero=2 precision=bf16
#   NODES=2 HOST=node1 bash launch/torchrun.sh model=llama_8b data.path=datasets/mine zero=3 run.name=mine
#
# `headrace train cluster=torchrun` does the same, checks more before, and starts again after a hang or a lost machine.
set -euo pipefail

NODES=${NODES:-1}                 # machines; all see the same folders
HOST=${HOST:-localhost}           # one of them, where they meet
PORT=${PORT:-29400}               # that is free there
PROCESSES=${PROCESSES:-$(nvidia-smi -L 2>/dev/null | wc -l)} # on each: one per GPU
[ "$PROCESSES" -gt 0 ] || PROCESSES=1

# Each process its share of the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) / PROCESSES > 0 ? $(nproc) / PROCESSES : 1 ))}
# A machine that was lost can join again only if the processes don't share torchrun's own store.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun passes SIGUSR1 on, too: every process then saves and ends, and the same command goes on.
export TORCHELASTIC_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1

if [ "$NODES" = 1 ]; then
  meeting=(--standalone)
else
  meeting=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-id=headrace --rdzv-endpoint="$HOST:$PORT")
fi

# --shutdown-timeout: seconds in which processes that were asked to stop may save.
exec torchrun "${meeting[@]}" --nproc-per-node="$PROCESSES" --max-restarts="${RESTARTS:-0}" --shutdown-timeout=600 \
  -m train "$@"
