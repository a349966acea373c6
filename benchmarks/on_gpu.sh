#!/usr/bin/env bash
# Checks the CUDA path and measures speed, quality and gain on a machine with one GPU, in at most 8 minutes.
#
#     OUT=results WHEELS=folder bash benchmarks/on_gpu.sh
#
# OUT receives one JSON file per benchmark and a log. WHEELS may hold packages that pip installs first, without an index.
# DEVICE=cpu QUICK=1 tries the script where there is no GPU.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python}
QUICK=${QUICK:+--quick}
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 MLFLOW_DISABLE_TELEMETRY=true
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" "$WHEELS"/*.whl
fi
"$PYTHON" -m pip install --quiet --no-deps --no-build-isolation -e . || exit 1

step() { # step SECONDS NAME COMMAND...: one benchmark, ended after its share of the time
    local limit=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$PYTHON" "$@" --json "$OUT/$name.json" || echo "== $name ended with status $?"
}

{
    step 100 device_path benchmarks/device_path.py --device "$DEVICE" $QUICK
    step 60 train_speed benchmarks/train_speed.py --device "$DEVICE" --sizes 32 64 --rounds 3 $QUICK
    step 60 sample_speed benchmarks/sample_speed.py --device "$DEVICE" --sizes 32 64 --rounds 3 $QUICK
    "$PYTHON" -c "from pathlib import Path; from diffaug.data.demo import write_long_tailed_digits as write; write(Path('$OUT/work/digits'))"
    step 130 quality_per_minute benchmarks/quality_per_minute.py "$OUT/work/digits" --work "$OUT/work/quality" \
        --systems diffaug "diffusers tuned" --minutes 0.5 --device "$DEVICE" $QUICK
    step 120 gain benchmarks/gain.py digits --minutes 0.5 --work "$OUT/work/gain" $QUICK
    rm -rf "$OUT/work"
} 2>&1 | tee "$OUT/log.txt"
exit "$(grep -c 'ended with status' "$OUT/log.txt")"
