#!/usr/bin/env bash
# Checks the CUDA path and measures speed, quality and gain on a machine with one GPU, in at most 8 minutes.
#
#     OUT=results WHEELS=folder bash benchmarks/on_gpu.sh
#     DEVICE=cpu QUICK=1 OUT=results bash benchmarks/on_gpu.sh     # a dry run at tiny sizes, in at most 8 minutes too;
#                                                                  # LIMIT=SECONDS gives a busy machine more
#
# - device_path: training, sampling, resuming after kills, float32, bfloat16, compilation, and too little memory.
# - train_speed, sample_speed: images per second at 32 and 128 px, against diffusers and denoising-diffusion-pytorch.
# - quality_per_minute: kernel distance on digits after half a minute, against the better peer.
# - cascade: a short cascade on digits at 128 px.
# - gain: the whole job on digits.
#
# OUT receives one JSON file per benchmark and a log; the exit status is the number of steps that failed. WHEELS may hold
# packages, which are installed without an index.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python}
QUICK=${QUICK:+--quick} LIMIT=${LIMIT:-475}
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 MLFLOW_DISABLE_TELEMETRY=true
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" "$WHEELS"/*.whl
fi
if [ -z "${INSTALLED:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation -e . || exit 1
fi
SIZES="32 128" ROUNDS=3 MINUTES="--minutes 0.5" CASCADE="--image-size 128 --images-seen 60000" GAIN=""
if [ -n "$QUICK" ]; then
    SIZES="8" ROUNDS=1 MINUTES="--minutes 0.05" GAIN="--no-encoder"
    CASCADE="--image-size 80 --images-seen 64"
    export DIFFAUG_SYNTHESIS__NUM_INFERENCE_STEPS=2 DIFFAUG_DATA__NEAR_DUPLICATES=false
    export DIFFAUG_ADVANCED__PILOT=false DIFFAUG_EVALUATION__QUICK=true OMP_NUM_THREADS=1
fi

step() { # step SECONDS NAME COMMAND...: one command, ended after its share of the time, in a dry run after all of it
    local limit=$1 name=$2
    shift 2
    if [ -n "$QUICK" ]; then limit=$((SECONDS + 5 < LIMIT ? LIMIT - SECONDS : 5)); fi
    echo "== $name"
    timeout "$limit" "$PYTHON" "$@" || echo "== $name ended with status $?"
}

{
    step 120 device_path benchmarks/device_path.py --device "$DEVICE" --json "$OUT/device_path.json" $QUICK
    step 60 train_speed benchmarks/train_speed.py --device "$DEVICE" --sizes $SIZES --rounds $ROUNDS --json "$OUT/train_speed.json" $QUICK
    step 60 sample_speed benchmarks/sample_speed.py --device "$DEVICE" --sizes $SIZES --rounds $ROUNDS --json "$OUT/sample_speed.json" $QUICK
    "$PYTHON" -c "from pathlib import Path; from diffaug.data.demo import write_long_tailed_digits as write; write(Path('$OUT/work/digits'))"
    step 100 quality_per_minute benchmarks/quality_per_minute.py "$OUT/work/digits" --work "$OUT/work/quality" \
        --systems diffaug "diffusers tuned" $MINUTES --device "$DEVICE" --json "$OUT/quality_per_minute.json" $QUICK
    step 60 cascade -m diffaug fit "$OUT/work/digits" --study "$OUT/work/cascade" --route cascade $CASCADE \
        --device "$DEVICE" --no-mlflow --set advanced.pilot=false --set data.near_duplicates=false
    step 80 gain benchmarks/gain.py digits $MINUTES $GAIN --work "$OUT/work/gain" --json "$OUT/gain.json" $QUICK
    rm -rf "$OUT/work"
} 2>&1 | tee "$OUT/log.txt"
exit "$(grep -c 'ended with status' "$OUT/log.txt")"
