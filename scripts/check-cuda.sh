#!/usr/bin/env bash
# What can be said of the CUDA backend on a machine without a GPU: whether everything compiles with `--features nccl,cuda`, and whether NVRTC
# compiles step.cu. What step.cu computes is tested by crates/fadam-core/tests/cuda_source.rs, which `cargo test` runs anywhere.
#
# Without nvcc, a stub takes its place: `cargo check` wants candle's kernels to have been compiled, but looks at none of them. NVRTC is
# taken from $NVRTC (the path of libnvrtc.so), from the system, or from PyPI's nvidia-cuda-nvrtc-cu12 (90 MB, removed again).
set -euo pipefail
cd "$(dirname "$0")/.."
source=crates/fadam-core/src/kernel/cuda/step.cu

step() { printf '\n== %s\n' "$*"; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/check-cuda.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

step "types"
if command -v nvcc >/dev/null 2>&1; then
    command -v nvidia-smi >/dev/null 2>&1 || export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
else
    echo "no nvcc: a stub takes its place, so this build can be checked but not linked"
    mkdir "$scratch/bin"
    # Makes the files that candle-kernels' build script asks for, empty: NAME.ptx in --output-directory, or what -o names.
    cat >"$scratch/bin/nvcc" <<'STUB'
#!/bin/sh
previous= folder= source=
for argument in "$@"; do
    case $previous in
    --output-directory) folder=$argument ;;
    -o) : >"$argument" ;;
    esac
    case $argument in *.cu) source=$argument ;; esac
    previous=$argument
done
if [ -n "$folder" ]; then : >"$folder/$(basename "$source" .cu).ptx"; fi
STUB
    chmod +x "$scratch/bin/nvcc"
    # candle-kernels keeps what it compiled by compute capability. No device has 8.1, so that no build for one finds the empty files.
    export PATH="$scratch/bin:$PATH" CUDA_COMPUTE_CAP=81 CUDARC_CUDA_VERSION=12080
fi
cargo check -p fadam-core -p fadam-ops --features fadam-core/cuda,fadam-ops/cuda --all-targets
cargo check --features nccl,cuda

step "step.cu in NVRTC"
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: python3, which calls NVRTC, is not installed"
    exit 0
fi
cat >"$scratch/compile.py" <<'PYTHON'
"""Compiles a CUDA source as the library does and for compute_80, and prints the sizes of the PTX. Status 3: there is no NVRTC."""
import ctypes
import ctypes.util
import os
import pathlib
import site
import sys

packaged = [
    str(path)
    for folder in site.getsitepackages()
    for path in pathlib.Path(folder).glob("nvidia/**/libnvrtc.so.*")
    if "alt" not in path.name
]
library = os.environ.get("NVRTC") or next(iter(packaged), None) or ctypes.util.find_library("nvrtc")
if library is None:
    sys.exit(3)
# NVRTC opens this by name alone, which a package's folder is not searched for; loaded before, it is found.
for builtins in sorted(pathlib.Path(library).parent.glob("libnvrtc-builtins.so.*")):
    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(library)
source = pathlib.Path(sys.argv[1]).read_bytes()


def check(status):
    if status != 0:
        sys.exit(f"NVRTC: status {status}")


def text(size, get):
    length = ctypes.c_size_t()
    check(size(program, ctypes.byref(length)))
    buffer = ctypes.create_string_buffer(length.value)
    check(get(program, buffer))
    return buffer.value.decode()


major, minor = ctypes.c_int(), ctypes.c_int()
check(nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
print(f"NVRTC {major.value}.{minor.value}: {library}")
for options in ([], [b"--gpu-architecture=compute_80"]):
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"step.cu", 0, None, None))
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    print(text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog), end="")
    check(status)
    ptx = text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    target = next(line for line in ptx.splitlines() if line.startswith(".target"))
    print(f"{len(ptx)} bytes of PTX, {target[1:]}, {ptx.count('.visible .entry')} kernels")
    check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
PYTHON

status=0
python3 "$scratch/compile.py" "$source" || status=$?
if [ $status = 3 ]; then
    if python3 -m venv "$scratch/venv" && "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check nvidia-cuda-nvrtc-cu12; then
        status=0
        "$scratch/venv/bin/python" "$scratch/compile.py" "$source" || status=$?
    else
        echo "skipped: there is no libnvrtc here, and pip cannot install nvidia-cuda-nvrtc-cu12"
        status=0
    fi
fi
exit $status
