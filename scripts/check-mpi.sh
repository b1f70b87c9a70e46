#!/usr/bin/env bash
# Data parallelism over MPI on this machine: 2 and 4 processes against 1, a killed one, resuming with another number (experiments/tests/mpi.rs).
#
# Takes the MPI whose mpicc and mpiexec are on the path, else MPICH from PyPI, and bindgen's libclang likewise; removes what it installed. Where
# neither can be had it says so and is content. Some minutes: rsmpi, fadam-train and the programs are built with the feature `mpi`.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/check-mpi.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

step "MPI and libclang"
packages=()
command -v mpicc >/dev/null 2>&1 && command -v mpiexec >/dev/null 2>&1 || packages+=(mpich==5.0.2)
clang=${LIBCLANG_PATH:-$(dirname "$(find /usr/lib/llvm*/lib /usr/lib64 /usr/lib -maxdepth 1 -name 'libclang*.so*' ! -name '*cpp*' 2>/dev/null | head -n 1)")}
[ -n "$(find "$clang" -maxdepth 1 -name 'libclang*.so*' ! -name '*cpp*' 2>/dev/null)" ] || packages+=(libclang==18.1.1)
if [ ${#packages[@]} -gt 0 ]; then
    if ! { python3 -m venv "$scratch/venv" && "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; }; then
        echo "skipped: there is no MPI or no libclang here, and pip cannot install ${packages[*]}"
        exit 0
    fi
    export PATH="$scratch/venv/bin:$PATH" LD_LIBRARY_PATH="$scratch/venv/lib:${LD_LIBRARY_PATH:-}"
    packaged=$(find "$scratch/venv/lib" -path '*clang/native' | head -n 1)
    clang=${packaged:-$clang}
fi
export LIBCLANG_PATH=$clang
# A libclang without its compiler does not know where stddef.h is; the C compiler does.
export BINDGEN_EXTRA_CLANG_ARGS="-I$("${CC:-cc}" -print-file-name=include)"
mpiexec --version | head -n 2
# Open MPI: as root, and more processes than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

step "1, 2 and 4 processes"
cargo test --workspace --features experiments/mpi --test mpi -- --nocapture --test-threads 1
