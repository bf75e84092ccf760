# What gpu_run_a.sh and gpu_run_b.sh share; sourced by them. Steps fail alone: the next one runs whatever became of the last.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python}
out=${OUT:-gpu_run}
mkdir -p "$out"
export PYTHONPATH=$PWD NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0 XLA_PYTHON_CLIENT_PREALLOCATE=false
if nvcc=$(command -v nvcc); then # libNVVM lies beside the compiler
    CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    export CUDA_HOME CUDA_PATH=$CUDA_HOME
fi

step() { # step NAME SECONDS COMMAND...: its output goes to $out/NAME.txt
    local name=$1 seconds=$2 status=0
    shift 2
    timeout --kill-after=5 "$seconds" "$@" >"$out/$name.txt" 2>&1 || status=$?
    echo "$name: status $status, $SECONDS s after the start" | tee -a "$out/steps.txt"
}

versions() {
    step versions 20 "$python" -c 'import fastce; fastce.show_config()'
    step driver 10 nvidia-smi
}

all_smoke_cases() { # side by side, a process each
    local name
    for name in $("$python" -m bench.cuda.smoke --list); do
        step "smoke-$name" 90 "$python" -m bench.cuda.smoke "$name" &
    done
    wait
}
