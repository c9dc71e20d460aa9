#!/bin/bash
# Trains under DeepSpeed's own launcher, here or on the hosts of a file; read it, copy it, change it.
#
#   bash launch/deepspeed.sh model=llama_1b data.path=datasets/mine zero=3 precision=bf16
#   HOSTFILE=hosts bash launch/deepspeed.sh model=llama_8b data.path=datasets/mine zero=3 run.name=mine
#
# A hostfile has lines `HOST slots=GPUS`; ssh must get to each without a question, and pdsh be installed. With it,
# a shell on each host reads the settings again: no quotes, spaces or dollars in them, nor in this folder's name.
# `headrace train cluster=deepspeed` has no such limits, checks more before, and starts again after trouble.
set -euo pipefail

PORT=${PORT:-29500} # that is free on the first host
if ! command -v nvidia-smi >/dev/null; then
  export DS_ACCELERATOR=cpu # without a GPU; processes then talk by gloo
fi

if [ -n "${HOSTFILE:-}" ]; then
  # Only variables named PYTHON… or for the accelerator reach other hosts; the rest by this file, here or at home.
  [ -e .deepspeed_env ] || printf 'OMP_NUM_THREADS=%s\n' "${OMP_NUM_THREADS:-1}" > .deepspeed_env
  [ -z "${DS_ACCELERATOR:-}" ] || grep -q '^DS_ACCELERATOR=' .deepspeed_env || echo "DS_ACCELERATOR=$DS_ACCELERATOR" >> .deepspeed_env
  where=(--hostfile="$HOSTFILE" --launcher=pdsh)
else
  PROCESSES=${PROCESSES:-$(nvidia-smi -L 2>/dev/null | wc -l)}
  [ "$PROCESSES" -gt 0 ] || PROCESSES=1
  where=(--num_gpus="$PROCESSES")
fi

# --no_local_rank: our settings are KEY=VALUE, and ranks come by the environment.
exec deepspeed "${where[@]}" --master_port="$PORT" --no_local_rank --module train "$@"
