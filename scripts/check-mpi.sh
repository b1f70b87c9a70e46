#!/usr/bin/env bash
# Data parallelism over MPI on this machine: 2 and 4 processes against 1, a killed one, resuming with another number (experiments/tests/mpi.rs).
#
# Takes the MPI whose mpicc and mpiexec are on the path, else MPICH from PyPI, and bindgen's libclang likewise; what it installs is in the target folder
# (target/mpi-venv). Where neither can be had it says so and is content. Some minutes: rsmpi, fadam-train and the programs are built with the feature `mpi`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

step() { printf '\n== %s\n' "$*"; }
libclang() { # the first in these folders, of which not all need exist
    find "$@" -maxdepth 1 -name 'libclang*.so*' ! -name '*cpp*' 2>/dev/null | head -n 1 || true
}

step "MPI and libclang"
venv=$target/mpi-venv
packages=()
if ! command -v mpicc >/dev/null 2>&1 || ! command -v mpiexec >/dev/null 2>&1; then
    packages+=(mpich==5.0.2)
    export PATH="$venv/bin:$PATH" LD_LIBRARY_PATH="$venv/lib:${LD_LIBRARY_PATH:-}"
fi
clang=$(libclang "${LIBCLANG_PATH:-/nowhere}" /usr/lib/llvm*/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/lib)
[ -n "$clang" ] || packages+=(libclang==18.1.1)
if [ ${#packages[@]} -gt 0 ]; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; }; then
        echo "skipped: there is no MPI or no libclang here, and pip cannot install ${packages[*]}"
        exit 0
    fi
    [ -n "$clang" ] || clang=$(libclang "$venv"/lib/python3*/site-packages/clang/native)
fi
LIBCLANG_PATH=$(dirname "$clang")
export LIBCLANG_PATH
# A libclang without its compiler does not know where stddef.h is; the C compiler does.
BINDGEN_EXTRA_CLANG_ARGS="-I$("${CC:-cc}" -print-file-name=include)"
export BINDGEN_EXTRA_CLANG_ARGS
# rsmpi's build script is not run again by itself for another MPI.
if [ "$(mpicc -show)" != "$(cat "$target/mpi-built-with" 2>/dev/null)" ]; then
    cargo clean --quiet -p mpi-sys 2>/dev/null || true
    mkdir -p "$target" && mpicc -show >"$target/mpi-built-with"
fi
mpiexec --version | head -n 2
# Open MPI: as root, and more processes than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

step "1, 2 and 4 processes"
cargo test --workspace --features experiments/mpi --test mpi -- --nocapture --test-threads 1
