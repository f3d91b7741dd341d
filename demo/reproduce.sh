#!/usr/bin/env bash
# From nothing to the demo's checkpoint: rooms, three position encodings side by side on one stream of batches, and the
# best of them to the end. Needs an NVIDIA GPU with PyTorch, and some ten CPU cores to make rooms with.
#
#   demo/reproduce.sh WORK_FOLDER
#
# Settings by environment: PYTHON, GPUS, COUNT (rooms), STEPS (of each encoding), MINUTES (of the last run), JOBS, and
# OPTIONS of demo/train.py, e.g. "--batch_size 64": `python -m demo.training.check` says what suits a machine. Whatever
# is done already in the folder is not done again; an interrupted run goes on where it stood.
set -euo pipefail
work=${1:?name a work folder, e.g. demo/reproduce.sh /tmp/demo-training}
mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} gpus=${GPUS:-1} count=${COUNT:-20000} steps=${STEPS:-2000} minutes=${MINUTES:-12} jobs=${JOBS:-$(nproc)}
train() { local output=$1; shift; run_on "$@" --rooms "$work/rooms" --output "$work/$output" --count "$count" --validation 200 --jobs "$jobs" ${OPTIONS:-}; }
run_on() { # GPUS ARGUMENTS...
  local n=$1; shift
  if [ "$n" -gt 1 ]; then "$python" -m torch.distributed.run --nproc_per_node "$n" demo/train.py "$@"; else "$python" demo/train.py "$@"; fi
}

OMP_NUM_THREADS=1 train none 1 --pack_only
running=()
finish() { local one; for one in "${running[@]}"; do wait "$one"; done; running=(); }
for mode in none 3D_only 3D_with_1D; do # as many at once as there are GPUs
  [ -e "$work/mode-$mode/result.json" ] && continue
  CUDA_VISIBLE_DEVICES=${#running[@]} train "mode-$mode" 1 --mode "$mode" --steps "$steps" --validate_every 200 --quiet &
  running+=($!)
  [ "${#running[@]}" -lt "$gpus" ] || finish
done
finish
best=$("$python" - "$work" <<'PY'
import json, pathlib, sys
runs = {mode: json.loads((pathlib.Path(sys.argv[1]) / f"mode-{mode}" / "result.json").read_text()) for mode in ("none", "3D_only", "3D_with_1D")}
print(min(runs, key=lambda mode: runs[mode]["validation"]))
PY
)
echo "best of the three: $best"
train final "$gpus" --mode "$best" --minutes "$minutes"
echo "checkpoint: $work/final/checkpoint   curves: $work/*/curves.jsonl   scores: $work/*/result.json"
