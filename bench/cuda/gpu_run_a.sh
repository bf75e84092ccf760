#!/usr/bin/env bash
# The first look at a GPU, about 430 s: OUT=folder bash bench/cuda/gpu_run_a.sh
# Each step has its own limit of time and writes to its own file in $OUT; steps.txt tells how they ended.
source "$(dirname "${BASH_SOURCE[0]}")/gpu_steps.sh"

versions
step smoke-first 40 "$python" -m bench.cuda.smoke float32-300x10
all_smoke_cases
step record 170 "$python" -m bench.cuda.record --engines fastce torch triton --repeats 15 --minutes 2.3 \
    --jobs 16384x32768 4096x131072 10000000x10 --output "$out/record.json"
step profile 25 ncu --kernel-name regex:rows --launch-count 1 --set full "$python" -m bench.cuda.smoke 3x1000000
step tests 80 "$python" -m pytest -m gpu -n 12 -W default --maxfail=15 -q -p no:cacheprovider \
    tests/cuda/test_smoke.py tests/cuda/test_gpu_arrays.py
