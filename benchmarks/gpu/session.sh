#!/usr/bin/env bash
# Every GPU figure of the project from nothing, on one host with one or two NVIDIA GPUs: checkpoints with random weights,
# bundles, PyTorch's references and speeds, engines in all ways of the build matrix, parity, speed, memory, tests.
#
#   session.sh check        what imports in each Python, and whether the GPU answers (a minute at most)
#   session.sh start        start all that is not done yet, in the background; it outlives the terminal
#   session.sh start_torch  only what needs no TensorRT, where that comes later
#   session.sh wait N       show what ends, for N seconds at most, then collect
#   session.sh collect      results, logs and tables into $WORK/results and $WORK/results.tgz, also in the middle
#   session.sh stop STEP    end one step; `stop matrix-qwen` leaves what was built, and lets the measurements begin
#
# Settings by environment:
#   WORK         folder for all of it, on a disk with 40 GB                         (/tmp/spatiallm-session)
#   HOST_PYTHON  a Python with '.[export]' and PyTorch for CUDA                     (python3)
#   TRT_PYTHON   a Python with '.[tensorrt]'; it may be the same                    (python3)
#   TRT_ENV      a shell file to source before TRT_PYTHON                           (none)
#   HOST_PATH    more folders or wheels for HOST_PYTHON's PYTHONPATH                (none)
#   ORT_SITE     a folder with onnxruntime-gpu for HOST_PYTHON; its steps are left out without it
#   GPU_A GPU_B  for measurements and for builds; the same where there is one       (0 0)
#   WARM_GPU     where PyTorch compiles its baselines ahead, beside the builds, so that it is quick when the card is quiet (none)
#   PLUGINS      the library of `make plugins`: engines with our operators are built and measured before all others, its
#                functions beside PyTorch's, and its tests run; all of that is left out without it
#   WAYS         of Qwen's build matrix; WAYS_LLAMA of Llama's; empty: none         (see below; as build_matrix --ways)
#   AT_ONCE      builds at a time of Qwen's matrix, and AT_ONCE_LLAMA               (by cores and memory)
#   MATRIX_LIMIT seconds after which builds that have not ended are given up        (3600)
#   LIMITS       the largest sizes that the engines take
#   LENGTHS      of prompts for the library without TensorRT, with products of our own and with cuBLASLt's (13 lengths)
#   SPATIALLM_TENSORRT_LOG=verbose  logs what TensorRT tries; what it tells of compiled nodes is collected
#   SIZE DEVICE  tiny and cpu rehearse it                                           (real cuda)
#
# WAYS= WAYS_LLAMA= TINY_LAYOUTS=separate TINY_ROUNDS=1 PLUGINS=FILE is the short session: engines with our operators, their
# parity, speed and scenes first, and tiny engines only when these are measured.
#
# A step runs once: $WORK/done has its exit code, $WORK/logs what it said. To run one again, remove $WORK/done/STEP and its
# lane's $WORK/lane-NAME, and start again. No step has a time limit of its own. Speeds are measured when all builds have ended.
set -u
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SELF=$ROOT/benchmarks/gpu/session.sh
WORK=${WORK:-/tmp/spatiallm-session}
HOST_PYTHON=${HOST_PYTHON:-python3} TRT_PYTHON=${TRT_PYTHON:-python3} TRT_ENV=${TRT_ENV:-} HOST_PATH=${HOST_PATH:-} ORT_SITE=${ORT_SITE:-}
GPU_A=${GPU_A:-0} GPU_B=${GPU_B:-${GPU_A:-0}}
WAYS=${WAYS-segmented:held:3 segmented:scaled:3 separate:held:3 separate:scaled:3 separate:whole:3 separate:held-half:3 separate:scaled-half:3 separate:held-half-io:3 separate:free:3 separate:held:1 separate:free:1 shared:held-half:3 shared:free:3 shared:held:1 shared:free:1}
WAYS_LLAMA=${WAYS_LLAMA-segmented:held:3 segmented:scaled:3 separate:scaled:3 separate:held:3 separate:whole:3 separate:scaled-half:3}
# Which engines are measured whole: those that export.build makes by default, else the next that are finite in half precision.
PREFER="segmented-held-3 segmented-scaled-3 separate-held-3 separate-scaled-3 separate-held-half-3 separate-scaled-half-3 separate-held-half-io-3 separate-held-1 separate-whole-3 separate-free-3 shared-held-half-3 shared-held-3"
MATRIX_LIMIT=${MATRIX_LIMIT:-3600}
room=$(awk '/MemTotal/ { print int($2 / 8388608) }' /proc/meminfo) cap=$(cat /sys/fs/cgroup/memory.max 2> /dev/null)
case $cap in '' | *[!0-9]*) ;; *) [ $((cap >> 33)) -ge "$room" ] || room=$((cap >> 33)) ;; esac
UNITS=$(( room < $(nproc) ? room : $(nproc) )) # builds that fit: a core and 8 GiB each
AT_ONCE=${AT_ONCE:-$((UNITS * 7 / 16 + 1))} AT_ONCE_LLAMA=${AT_ONCE_LLAMA:-$((UNITS * 4 / 16 + 1))}
TINY_LAYOUTS=${TINY_LAYOUTS-segmented separate shared} TINY_ROUNDS=${TINY_ROUNDS:-2} WARM_GPU=${WARM_GPU:-} PLUGINS=${PLUGINS:-}
LIMITS=${LIMITS:---max_length 2048 --max_voxels 65536 --max_point_tokens 1024 --workspace 8}
SIZE=${SIZE:-real} DEVICE=${DEVICE:-cuda}
LENGTHS=${LENGTHS:-776 256 512 600 700 850 952 1024 1100 1200 1400 1536 2048} # of prompts, with products of our own and with cuBLASLt's
CANDIDATES=${CANDIDATES:-groups/reductions heads/reductions} PREFILLS=${PREFILLS:-default}
MODES=${MODES:-none 3D_only 3D_with_1D}
MODE_none="--vlm_pe None" MODE_3D_only="--vlm_pe 3D_RoPE --merge_rule 3D_only" MODE_3D_with_1D="--vlm_pe 3D_RoPE --merge_rule 3D_with_1D"
SCENE=$ROOT/demo/room.ply
FEW="--forced_steps 16 --free_tokens 64" # of real sizes, whose ladder climbs on the CPU
B=$WORK/bundles C=$WORK/checkpoints O=$WORK/results L=$WORK/logs D=$WORK/done
[ $# = 0 ] && [ "${BASH_SOURCE[0]}" = "$0" ] || mkdir -p "$B" "$C" "$O" "$L" "$D" # not where it only says what it does
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export TORCHINDUCTOR_CACHE_DIR=$WORK/inductor TRITON_CACHE_DIR=$WORK/triton XDG_CACHE_HOME=$WORK/cache

# --- steps -----------------------------------------------------------------------------------------------------------
now() { date +%s; }
note() { echo "$(date +%T) $*" >> "$WORK/progress"; }
# step NAME COMMAND...: run once in a process group of its own; a failure is noted and stops only what needs it.
step() {
  local name=$1 began code; shift
  [ -e "$D/$name" ] && return "$(cut -d' ' -f1 "$D/$name")"
  began=$(now); note "start $name"
  setsid "$@" > "$L/$name.log" 2>&1 < /dev/null &
  echo $! > "$D/.pid-$name"; wait $!; code=$?
  rm -f "$D/.pid-$name"
  echo "$code $(( $(now) - began ))s" > "$D/$name"; note "end   $name rc=$code $(( $(now) - began ))s"
  return $code
}
ended() { [ -e "$D/$1" ]; }
ok() { ended "$1" && [ "$(cut -d' ' -f1 "$D/$1")" = 0 ]; }
# after NAME...: wait for steps to end; fails where one of them failed.
after() {
  local name good=0
  for name in "$@"; do
    until ended "$name"; do sleep 0.5; done
    ok "$name" || { note "skip  what needs $name"; good=1; }
  done
  return $good
}
over() { [ -s "$WORK/lane-$1" ]; } # LANE: it has ended, whatever became of its steps
until_over() { local name; for name in "$@"; do until over "$name"; do sleep 0.5; done; done; }
# Each Python with the project on its path, on one GPU.
host() { local gpu=$1; shift; cd "$ROOT" && exec env CUDA_VISIBLE_DEVICES="$gpu" PYTHONPATH="$ROOT:$HOST_PATH:${PYTHONPATH:-}" OMP_NUM_THREADS="${THREADS:-8}" "$HOST_PYTHON" "$@"; }
trt() { local gpu=$1; shift; cd "$ROOT" || return; [ -z "$TRT_ENV" ] || source "$TRT_ENV"; exec env CUDA_VISIBLE_DEVICES="$gpu" PYTHONPATH="$ROOT:${PYTHONPATH:-}" "$TRT_PYTHON" "$@"; }
ort() { # onnxruntime-gpu finds CUDA's libraries where PyTorch's packages have them
  local gpu=$1 root libraries; shift
  root=$("$HOST_PYTHON" -c "import nvidia; print(list(nvidia.__path__)[0])" 2> /dev/null)
  libraries=$(ls -d "$root"/*/lib 2> /dev/null | tr '\n' ':')
  cd "$ROOT" && exec env CUDA_VISIBLE_DEVICES="$gpu" LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" PYTHONPATH="$ROOT:$ORT_SITE:$HOST_PATH:${PYTHONPATH:-}" "$HOST_PYTHON" "$@"
}
[ -z "$PLUGINS" ] || export SPATIALLM_PLUGINS=$PLUGINS
export -f host trt ort; export ROOT HOST_PYTHON TRT_PYTHON TRT_ENV HOST_PATH ORT_SITE
H() { local name=$1; shift; step "$name" bash -c 'host "$@"' _ "$@"; }
T() { local name=$1; shift; step "$name" bash -c 'trt "$@"' _ "$@"; }
R() { local name=$1; shift; step "$name" bash -c 'ort "$@"' _ "$@"; }
bench() { echo "-m benchmarks.gpu.$1"; }

check() {
  local code=0
  rm -f "$D"/check-*
  H check-host "$GPU_A" -c "
import importlib
for name in 'benchmarks.gpu.reference benchmarks.gpu.torch_baseline benchmarks.gpu.scene benchmarks.gpu.table export.cli export.parity.cli export.make_checkpoint'.split(): importlib.import_module(name)
import torch, transformers, numpy; print('torch', torch.__version__, 'transformers', transformers.__version__, 'numpy', numpy.__version__, 'GPUs', torch.cuda.device_count())
torch.ones(8, device='$DEVICE').sum().item()
from benchmarks.gpu.operators import Operators; from pathlib import Path
'$PLUGINS' and print('plugins', Operators(Path('$PLUGINS')))" || code=1
  T check-trt "$GPU_B" -c "
import importlib
for name in 'benchmarks.gpu.engines benchmarks.gpu.build_matrix benchmarks.gpu.profile export.build runtime.record'.split(): importlib.import_module(name)
import tensorrt, numpy; print('tensorrt', tensorrt.__version__, 'numpy', numpy.__version__)
from runtime.engines.cuda.gpu import read_gpu; print(read_gpu(0))
from runtime.engines.cuda.memory import CudaMemory; from runtime.engines.cuda.steps import CudaSteps
memory = CudaMemory(0); CudaSteps(memory, captures=True).close(); print('kernels compiled')" || code=1
  [ -z "$ORT_SITE" ] || R check-ort "$GPU_A" -c "import onnxruntime as o; print('onnxruntime', o.__version__, o.get_available_providers())" || code=1
  tail -n 4 "$L"/check-*.log; return $code
}

# --- PyTorch's side --------------------------------------------------------------------------------------------------
checkpoint() { THREADS=4 H "make-$1" "" -m export.make_checkpoint --family "$2" --size "$3" --dtype "$4" --output "$C/$1"; }
export_one() { # BUNDLE CHECKPOINT PRECISION MODE OPTIONS...
  local bundle=$1 model=$2 precision=$3 mode=(--VLM_PE None); [ "$4" = none ] || mode=(--VLM_PE 3D_RoPE --PCD_PE_Merge_Rule "$4"); shift 4
  THREADS=4 H "export-$bundle" "" export_model.py --model "$C/$model" --output "$B/$bundle" --precision "$precision" "${mode[@]}" --quiet --no_parity "$@"
}
reference() { # NAME CHECKPOINT GPU OPTIONS...
  local name=$1 checkpoint=$2 gpu=$3; shift 3
  H "reference-$name" "$gpu" $(bench reference) --model "$C/$checkpoint" --output "$WORK/$name.npz" --device "$DEVICE" "$@" && cp "$WORK/$name.json" "$O/reference-$name.json"
}
torch_baseline() { # STEP MODEL GPU OUTPUT
  H "$1" "$3" $(bench torch_baseline) --model "$C/$2" --precision fp16 --reference "$WORK/$2.npz" --device "$DEVICE" \
    --candidates $CANDIDATES --prefills $PREFILLS --time_limit 150 --budget 240 --output "$4"
}
torch_speed() { # MODEL
  torch_baseline "torch-$1" "$1" "$GPU_A" "$O/torch-$1.json"
  H "scene-torch-$1" "$GPU_A" $(bench scene) --backend torch --bundle "$B/$1" --model "$C/$1" --device "$DEVICE" --output "$O/scene-torch-$1.json"
}
lane_model() { # MODEL: with two GPUs PyTorch's speeds come at once, on the one without builds
  checkpoint "$1" "$1" "$SIZE" bfloat16 || return
  export_one "$1" "$1" fp16 3D_only &
  case $(ways "$1") in *scaled*) export_one "$1-scaled" "$1" fp16 3D_only --tensorrt_norm scaled & ;; esac
  reference "$1" "$1" "$GPU_A" --precision fp16 $MODE_3D_only
  wait
  [ -z "$WARM_GPU" ] || torch_baseline "warm-torch-$1" "$1" "$WARM_GPU" "$WORK/warm-torch-$1.json"
  [ "$GPU_A" = "$GPU_B" ] || torch_speed "$1"
}
lane_tiny() { # MODEL FAMILY: in half precision for our operators alone
  checkpoint "$1" "$2" tiny float32 || return
  local mode given
  for mode in $MODES; do export_one "$1-$mode" "$1" fp32 "$mode" --tensorrt_segment_layers 1; done
  [ -z "$PLUGINS" ] || for mode in $MODES; do export_one "$1-fp16-$mode" "$1" fp16 "$mode"; done
  for mode in $MODES; do given=MODE_$mode; reference "$1-$mode" "$1" "$GPU_A" --precision fp32 ${!given}; done
  [ -z "$PLUGINS" ] || for mode in $MODES; do given=MODE_$mode; reference "$1-fp16-$mode" "$1" "$GPU_A" --precision fp16 ${!given}; done
}

# --- engines ---------------------------------------------------------------------------------------------------------
ways() { [ "$1" = llama ] && echo "$WAYS_LLAMA" || echo "$WAYS"; } # MODEL
lane_matrix() { # MODEL AT_ONCE
  local scaled=()
  [ -n "$(ways "$1")" ] || return 0
  after "export-$1" || return
  case $(ways "$1") in *scaled*) after "export-$1-scaled" || return; scaled=(--scaled "$B/$1-scaled") ;; esac
  T "matrix-$1" "$GPU_B" $(bench build_matrix) --bundle "$B/$1" "${scaled[@]}" --folder "$WORK/ways/$1" --output "$O/matrix-$1.json" \
    --ways $(ways "$1") --total_limit "$MATRIX_LIMIT" --at_once "$2" $LIMITS
}
ready() { cat "$WORK/ways/$1/ready" 2> /dev/null; } # MODEL: bundles with engines
lane_parity() { # MODEL: each way's parity as soon as its engines stand; a busy card does not change numbers
  local way=
  after "reference-$1" || return
  while ! over "matrix-$1" || [ -n "$(unproven "$1")" ]; do
    way=$(unproven "$1"); [ -n "$way" ] || { sleep 1; continue; }
    parity "$1" "$way"
  done
}
unproven() { local path; for path in $(ready "$1"); do ended "parity-$1-$(basename "$path")" || { basename "$path"; return; }; done; }
parity() { T "parity-$1-$2" "$GPU_B" $(bench engines) --bundle "$WORK/ways/$1/$2" --reference "$WORK/$1.npz" --output "$O/parity-$1-$2.json" --parts parity; }
lane_plugin() { # MODEL: all three engines, prefill and decode with our operators, from the bundle alone
  local bundle=$WORK/plugin/$1
  [ -n "$PLUGINS" ] || return 0
  after "export-$1" || return
  copied "$B/$1" "$bundle"
  T "build-plugin-$1" "$GPU_B" $(bench build) --bundle "$bundle" --output "$O/build-plugin-$1.json" --plugins --jobs 3 $LIMITS --timing_cache "$WORK/timing-plugin-$1.cache" || return
  keep_of "$bundle" "plugin-$1"
  after "reference-$1" && T "parity-plugin-$1" "$GPU_B" $(bench engines) --bundle "$bundle" --reference "$WORK/$1.npz" --output "$O/parity-plugin-$1.json" --parts parity
}
copied() { mkdir -p "$(dirname "$2")"; [ -e "$2" ] || cp -rl "$1" "$2"; } # BUNDLE TO: links to files that nobody changes
lane_tiny_engines() { # MODEL: the modes differ in their tables only, so one build serves all three
  local mode layout first=${MODES%% *}
  # Without a matrix to wait for, what is measured first has the card alone.
  [ -n "$WAYS$WAYS_LLAMA" ] || [ "$GPU_A" != "$GPU_B" ] || until_over first
  tiny_half "$1"
  after "export-$1-$first" || return
  for layout in $TINY_LAYOUTS; do
    cp -r "$B/$1-$first" "$B/$1-$layout"
    T "build-$1-$layout" "$GPU_B" $(bench build) --bundle "$B/$1-$layout" --output "$O/build-$1-$layout.json" --language_model "$layout" $LIMITS --timing_cache "$WORK/timing-$1-$layout.cache" --jobs 3 --rounds "$TINY_ROUNDS" || continue
    keep "$1-$layout"
    for mode in $MODES; do
      after "export-$1-$mode" "reference-$1-$mode" || continue
      rm -rf "$B/$1-$mode/engines"; cp -r "$B/$1-$layout/engines" "$B/$1-$mode/"
      T "engines-$1-$mode-$layout" "$GPU_B" $(bench engines) --bundle "$B/$1-$mode" --reference "$WORK/$1-$mode.npz" --output "$O/engines-$1-$mode-$layout.json" --parts parity
      [ "$layout" = "${TINY_LAYOUTS%% *}" ] && rung "$1-$mode" "$B/$1-$mode" "$layout" && ladder "$1-$mode" "$1" "$B/$1-$mode" "$layout"
    done
  done
}
tiny_half() { # MODEL: in half precision with our operators; their kernel for one token is not made for such sizes
  local mode first=${MODES%% *} last=${MODES##* }
  [ -n "$PLUGINS" ] && after "export-$1-fp16-$first" || return 0
  copied "$B/$1-fp16-$first" "$B/$1-fp16-plugin"
  T "build-$1-fp16-plugin" "$GPU_B" $(bench build) --bundle "$B/$1-fp16-plugin" --output "$O/build-$1-fp16-plugin.json" --plugins $LIMITS --max_batch 4 --timing_cache "$WORK/timing-$1-fp16.cache" --jobs 3 || return
  keep "$1-fp16-plugin"
  for mode in $MODES; do
    after "export-$1-fp16-$mode" "reference-$1-fp16-$mode" || continue
    rm -rf "$B/$1-fp16-$mode/engines"; cp -r "$B/$1-fp16-plugin/engines" "$B/$1-fp16-$mode/"
    T "engines-$1-fp16-$mode-plugin" "$GPU_B" $(bench engines) --bundle "$B/$1-fp16-$mode" --reference "$WORK/$1-fp16-$mode.npz" --output "$O/engines-$1-fp16-$mode-plugin.json" --parts parity
  done
  [ "$1" = tinyqwen ] || return # what tests/gpu compares with: TensorRT's own engines beside the same encoder
  T "build-$1-fp16" "$GPU_B" $(bench build) --bundle "$B/$1-fp16-$last" --output "$O/build-$1-fp16.json" --graphs prefill decode --language_model separate $LIMITS --max_batch 4 --timing_cache "$WORK/timing-$1-fp16.cache" --jobs 2
}
rung() { # NAME BUNDLE TAG OPTIONS...: what the ladder of export.parity compares, recorded of an engine
  local name=$1 bundle=$2 tag=$3; shift 3
  T "record-$name-$tag" "$GPU_B" -m runtime.record --bundle "$bundle" --point_cloud "$SCENE" --backend tensorrt --output "$WORK/rung-$name-$tag.npz" --quiet "$@"
}
ladder() { # NAME CHECKPOINT BUNDLE TAG OPTIONS...: the recorded rung on top of the ladder
  local name=$1 model=$2 bundle=$3 tag=$4; shift 4
  ok "record-$name-$tag" && H "ladder-$name-$tag" "" -m export.parity --bundle "$bundle" --model "$C/$model" --point_cloud "$SCENE" --against "$WORK/rung-$name-$tag.npz" --report "$O/ladder-$name-$tag.json" --quiet "$@"
}
keep() { keep_of "$B/$1" "$1"; }
keep_of() { # BUNDLE NAME: records, warnings and TensorRT's own reports
  local file; for file in "$1"/engines/*/{engine.json,*.log,*.inspector.json}; do
    [ -e "$file" ] && gzip -c "$file" > "$O/$2-$(basename "$file").gz"; done; return 0; }

# --- measurements, on a card that nobody else uses -------------------------------------------------------------------
best() { local way; for way in $PREFER; do ready "$1" | grep -qx ".*/$way" && ok "parity-$1-$way" && { echo "$way"; return; }; done; }
lane_first() { # what proves most: both models with our operators
  local m
  [ -n "$PLUGINS" ] || return 0
  for m in qwen llama; do until_over "$m" "tiny$m" "matrix-$m" "parity-$m" "plugin-$m"; done
  until_over ort
  for m in qwen llama; do
    ok "build-plugin-$m" || { note "skip  measurements of $m with our operators: no engines"; continue; }
    T "engines-plugin-$m" "$GPU_A" $(bench engines) --bundle "$WORK/plugin/$m" --reference "$WORK/$m.npz" --output "$O/engines-plugin-$m.json"
    T "scene-plugin-$m" "$GPU_A" $(bench scene) --bundle "$WORK/plugin/$m" --output "$O/scene-plugin-$m.json"
  done
  H prefill-step "$GPU_A" $(bench prefill_step) --rows $LENGTHS --output "$O/prefill-step"
  SPATIALLM_PRODUCTS=cublaslt H prefill-step-cublaslt "$GPU_A" $(bench prefill_step) --rows $LENGTHS --output "$O/prefill-step-cublaslt"
}
lane_measure() {
  local m tag bundle
  until_over first
  for m in qwen llama; do until_over "$m" "matrix-$m" "parity-$m" "plugin-$m" "tiny$m" "trt-tiny$m"; done
  until_over ort
  for m in qwen llama; do speeds "$m"; done
  for m in qwen llama; do account "$m"; done
  [ -z "$ORT_SITE" ] || for m in qwen llama; do
    ok "reference-$m" && R "ort-$m" "$GPU_A" $(bench engines) --bundle "$B/$m" --reference "$WORK/$m.npz" --backend onnxruntime --device cuda:0 --output "$O/ort-$m.json"
  done
  own_tests
  for m in qwen llama; do builds "$m"; done
  for m in qwen llama; do others "$m"; done
  for m in qwen llama; do measured "$m" | while read -r tag bundle; do ladder "$m" "$m" "$bundle" "$tag" $FEW; done; done
  [ -z "$PLUGINS" ] || step sanitize env CUDA_VISIBLE_DEVICES="$GPU_A" PYTHON="$HOST_PYTHON" STEP_PYTHON="$TRT_PYTHON" STEP_ENV="$TRT_ENV" PYTHONPATH="$ROOT:$HOST_PATH:${PYTHONPATH:-}" \
    bash "$ROOT/benchmarks/gpu/sanitize.sh" "$O/sanitize"
}
measured() { # MODEL: name and bundle of the engines that are measured whole, ours first
  local way; way=$(best "$1")
  ! ok "build-plugin-$1" || echo "plugin $WORK/plugin/$1"
  [ -z "$way" ] || echo "$way $WORK/ways/$1/$way"
}
speeds() { # MODEL: TensorRT's own engines and PyTorch, so that one table compares like with like
  local way bundle; way=$(best "$1"); bundle=$WORK/ways/$1/$way
  if [ -n "$way" ]; then
    note "$1 is measured with $way"
    T "engines-$1" "$GPU_A" $(bench engines) --bundle "$bundle" --reference "$WORK/$1.npz" --output "$O/engines-$1.json"
    T "scene-trt-$1" "$GPU_A" $(bench scene) --bundle "$bundle" --output "$O/scene-trt-$1.json"
  elif [ -n "$(ways "$1")" ]; then
    note "skip  measurements of $1: no engines"
  fi
  [ "$GPU_A" != "$GPU_B" ] || torch_speed "$1"
}
account() { # MODEL: where the time goes; the real command; the rung of the ladder
  local tag bundle name
  measured "$1" | while read -r tag bundle; do
    name=$1; [ "$tag" != plugin ] || name=plugin-$1
    T "profile-$name" "$GPU_A" $(bench profile) --bundle "$bundle" --reference "$WORK/$1.npz" --output "$O/profile-$name.json"
    T "run-$name" "$GPU_A" run_engine.py --bundle "$bundle" --backend tensorrt --point_cloud "$SCENE" --output "$O/room-$name.txt" --max_new_tokens 256 --timings
    rung "$1" "$bundle" "$tag" $FEW
  done
}
builds() { # MODEL: seconds of export.build as users call it, with nothing beside it; cold, then with its timing cache
  if ok "build-plugin-$1"; then # with our operators: what differs, then all of it with the cache that the first build left
    copied "$WORK/plugin/$1" "$WORK/built/plugin-$1"
    T "build-alone-plugin-$1" "$GPU_B" $(bench build) --bundle "$WORK/built/plugin-$1" --output "$O/build-alone-plugin-$1.json" --plugins --graphs prefill decode $LIMITS --timing_cache "$WORK/timing-alone-$1.cache" --rounds 2
    T "build-again-plugin-$1" "$GPU_B" $(bench build) --bundle "$WORK/built/plugin-$1" --output "$O/build-again-plugin-$1.json" --plugins $LIMITS --timing_cache "$WORK/timing-plugin-$1.cache"
  fi
  [ -n "$(ways "$1")" ] || return 0
  copied "$B/$1" "$WORK/built/$1"
  T "build-$1" "$GPU_B" $(bench build) --bundle "$WORK/built/$1" --output "$O/build-$1.json" --no-plugins $LIMITS --timing_cache "$WORK/timing-$1.cache" --rounds 2; keep_of "$WORK/built/$1" "$1"
}
others() { # MODEL: speeds of the other ways
  local path way chosen; chosen=$(best "$1")
  for path in $(ready "$1"); do
    way=$(basename "$path"); [ "$way" = "$chosen" ] && continue
    T "speed-$1-$way" "$GPU_A" $(bench engines) --bundle "$path" --reference "$WORK/$1.npz" --output "$O/speed-$1-$way.json" --parts speed
  done
}
lane_ort() { # parity needs no quiet card
  local mode
  [ -n "$ORT_SITE" ] || return 0
  for mode in $MODES; do
    after "export-tinyqwen-$mode" "reference-tinyqwen-$mode" || continue
    R "ort-tinyqwen-$mode" "$GPU_B" $(bench engines) --bundle "$B/tinyqwen-$mode" --reference "$WORK/tinyqwen-$mode.npz" --backend onnxruntime --device cuda:0 --parts parity --output "$O/ort-tinyqwen-$mode.json"
    R "record-ort-tinyqwen-$mode" "$GPU_B" -m runtime.record --bundle "$B/tinyqwen-$mode" --point_cloud "$SCENE" --backend onnxruntime --device cuda:0 --output "$WORK/rung-ort-$mode.npz" --quiet &&
      H "ladder-ort-tinyqwen-$mode" "" -m export.parity --bundle "$B/tinyqwen-$mode" --model "$C/tinyqwen" --point_cloud "$SCENE" --against "$WORK/rung-ort-$mode.npz" --report "$O/ladder-ort-tinyqwen-$mode.json" --quiet
  done
}
own_tests() { # tests/gpu on tiny bundles: kernels, graphs, threads, memory, refusals; its memory tests want the card alone
  test_bundle tiny "$B/tinyqwen-3D_only"
  test_bundle tiny-fp16 "$B/tinyqwen-fp16-${MODES##* }"
  SPATIALLM_BUNDLES=$WORK/tests T tests-gpu "$GPU_A" -m pytest -q -p no:cacheprovider --confcutdir=tests/gpu tests/gpu -m gpu
  [ -z "$PLUGINS" ] || H tests-operators "$GPU_A" -m pytest -q -p no:cacheprovider --confcutdir=tests/gpu tests/gpu/test_language_model.py -m gpu
}
test_bundle() { # NAME BUNDLE: beside it what its graphs give under ONNX Runtime on the CPU
  ls "$2"/engines/*/engine.json > /dev/null 2>&1 || return
  mkdir -p "$WORK/tests"; [ -e "$WORK/tests/$1" ] || cp -r "$2" "$WORK/tests/$1"
  H "tests-record-$1" "" run_engine.py -m "$WORK/tests/$1" -p "$SCENE" -o "$WORK/tests/out-$1.txt" --backend onnxruntime --device cpu \
    --save_tensors "$WORK/tests/$1.npz" --save_steps 64 --max_new_tokens 256
}

# --- lanes: chains of steps that outlive the call that started them --------------------------------------------------
lane() { # NAME COMMAND...
  local name=$1; shift
  [ -e "$WORK/lane-$name" ] && return
  : > "$WORK/lane-$name"
  setsid bash "$SELF" run_lane "$name" "$@" > "$L/lane-$name.log" 2>&1 < /dev/null &
}
start_torch() {
  lane qwen lane_model qwen; lane llama lane_model llama
  lane tinyqwen lane_tiny tinyqwen qwen; lane tinyllama lane_tiny tinyllama llama
}
start() {
  start_torch
  lane plugin-qwen lane_plugin qwen; lane plugin-llama lane_plugin llama
  lane matrix-qwen lane_matrix qwen "$AT_ONCE"; lane matrix-llama lane_matrix llama "$AT_ONCE_LLAMA"
  lane parity-qwen lane_parity qwen; lane parity-llama lane_parity llama
  lane trt-tinyqwen lane_tiny_engines tinyqwen; lane trt-tinyllama lane_tiny_engines tinyllama
  lane ort lane_ort; lane first lane_first
  lane measure lane_measure
}
running() { ls "$D"/.pid-* 2> /dev/null | sed 's/.*\.pid-//' | tr '\n' ' '; }
lanes_left() { find "$WORK" -maxdepth 1 -name 'lane-*' -empty | wc -l; }
watch_until() { # SECONDS
  local end=$(( $(now) + $1 )) seen=0 lines last=0
  while [ "$(now)" -lt "$end" ] && [ "$(lanes_left)" -gt 0 ]; do
    lines=$(wc -l < "$WORK/progress" 2> /dev/null || echo 0)
    [ "$lines" -gt "$seen" ] && { tail -n +$((seen + 1)) "$WORK/progress"; seen=$lines; }
    [ $(( $(now) - last )) -lt 30 ] || { last=$(now); echo "-- $(date +%T) running: $(running)"; }
    sleep 2
  done
  tail -n +$((seen + 1)) "$WORK/progress" 2> /dev/null
}
in_cell() { echo "$(basename "$(dirname "$(dirname "$(dirname "$1")")")")-$(basename "$(dirname "$1")").$(basename "$1")"; } # FILE: MODEL-CELL.FILE
collect() {
  local file
  cp "$WORK/progress" "$O/progress.txt" 2> /dev/null
  for file in "$D"/*; do [ -f "$file" ] && echo "$(basename "$file"): $(cat "$file")"; done > "$O/steps.txt"
  mkdir -p "$O/logs"; for file in "$L"/*.log; do tail -c 60000 "$file" > "$O/logs/$(basename "$file")"; done
  for file in "$WORK"/ways/*/cells/*/*.{log,inspector.json}; do
    [ -s "$file" ] && grep -vE '\[V\]' "$file" | gzip > "$O/logs/$(in_cell "$file").gz"; done
  for file in "$WORK"/ways/*/cells/*/*.log; do # verbose logs are large: what they tell of types and compiled nodes
    grep -q '\[V\]' "$file" 2> /dev/null && grep -E 'Autotuning format|Computing costs|Timing Runner|Fastest Tactic|completed in|(Myelin|ForeignNode).*(took|seconds)' "$file" |
      head -c 4000000 | gzip > "$O/logs/$(in_cell "$file").tried.gz"; done
  nvidia-smi > "$O/nvidia-smi.txt" 2>&1
  (host "" -m benchmarks.gpu.table $(ls "$O"/{torch,engines,ort,scene,build}-*.json 2> /dev/null) > "$O/tables.md" 2> "$O/tables.err")
  tar czf "$WORK/results.tgz.part" -C "$WORK" results && mv "$WORK/results.tgz.part" "$WORK/results.tgz"
  cat "$O/steps.txt" "$O/tables.md"
}

what=${1:-}; shift || true
case $what in
  check | start | start_torch | collect) "$what" ;;
  wait) watch_until "${1:-500}"; collect ;;
  stop) kill -- "-$(cat "$D/.pid-$1")" ;;
  run_lane) name=$1; shift; "$@"; echo ended > "$WORK/lane-$name" ;;
  *) sed -n '2,/^set -u/p' "$SELF" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
