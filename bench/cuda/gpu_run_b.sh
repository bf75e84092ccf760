#!/usr/bin/env bash
# The second look at a GPU, about 270 s: OUT=folder bash bench/cuda/gpu_run_b.sh [what to run again: smoke cases]
# Each step has its own limit of time and writes to its own file in $OUT; steps.txt tells how they ended.
source "$(dirname "${BASH_SOURCE[0]}")/gpu_steps.sh"

[ $# -eq 0 ] || step again 60 "$python" -m bench.cuda.smoke "$@"
for tool in memcheck racecheck; do
    step "$tool" 80 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" -m bench.cuda.smoke float32-7x1001 clip &
done
step tests 90 "$python" -m pytest -m gpu -n 12 -W default --maxfail=15 -q -p no:cacheprovider \
    tests/cuda/test_gpu.py -k "not sanitizer and not do_not_hang"
wait
step streams 60 "$python" -m pytest -m gpu -q -p no:cacheprovider tests/cuda/test_gpu.py -k do_not_hang
step record 100 "$python" -m bench.cuda.record --engines fastce torch triton --repeats 15 --minutes 1.3 \
    --jobs clip 8192x50257+value_and_grad 1000000x100+value_and_grad 32x10 --output "$out/record.json"
