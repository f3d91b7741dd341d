#!/usr/bin/env bash
# From nothing to the demo's checkpoint: rooms, three position encodings side by side on one stream of batches, and the
# best of them to the end. Needs an NVIDIA GPU with PyTorch, and some ten CPU cores to make rooms with.
#
#   demo/reproduce.sh WORK_FOLDER
#
# Settings by environment: PYTHON, GPUS, COUNT (rooms), MODE_COUNT (of them, those that the encodings are compared on:
# they are made first, the others while those train), STEPS (of each encoding), MINUTES (of the last run), JOBS, and
# OPTIONS of demo/train.py, e.g. "--batch_size 64": `python -m demo.training.check` says what suits a machine. Whatever
# is done already in the folder is not done again; an interrupted run goes on where it stood.
set -euo pipefail
work=${1:?name a work folder, e.g. demo/reproduce.sh /tmp/demo-training}
mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} gpus=${GPUS:-1} count=${COUNT:-20000} steps=${STEPS:-1200} minutes=${MINUTES:-10.2} jobs=${JOBS:-$(nproc)}
some=${MODE_COUNT:-4000}
some=$((some < count ? some : count))
trap 'kill $(jobs -p) 2>/dev/null || :' EXIT # what runs beside this script ends with it

compose() { # FOLDER GPUS ROOMS OPTIONS...: the command `run`; validation rooms are the same for all
  run=("$python")
  [ "$2" -eq 1 ] || run+=(-m torch.distributed.run --nproc_per_node "$2")
  run+=(demo/train.py --rooms "$work/rooms" --output "$work/$1" --count "$3" --validation 200 --jobs "$jobs" "${@:4}" ${OPTIONS:-})
}
finish() {
  local one
  for one in "${running[@]}"; do wait "$one"; done
  running=()
}

compose none 1 "$some" --pack_only
OMP_NUM_THREADS=1 "${run[@]}"
compose none 1 "$count" --pack_only --quiet
OMP_NUM_THREADS=1 nice "${run[@]}" > "$work/rooms.log" 2>&1 & # after what the GPU waits for
others=$!
running=()
for mode in none 3D_only 3D_with_1D; do # as many at once as there are GPUs
  [ -e "$work/mode-$mode/result.json" ] && continue
  compose "mode-$mode" 1 "$some" --mode "$mode" --steps "$steps" --validate_every 200 --quiet
  CUDA_VISIBLE_DEVICES=${#running[@]} "${run[@]}" &
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
wait "$others" || { cat "$work/rooms.log" >&2; exit 1; }
compose final "$gpus" "$count" --mode "$best" --minutes "$minutes"
"${run[@]}"
"$python" -m demo.training.report "$work"/mode-* "$work/final" --output "$work/runs.json"
echo "checkpoint: $work/final/checkpoint   curves and scores: $work/runs.json"
