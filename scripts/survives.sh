#!/usr/bin/env bash
# The faults of docs/reliability.md, tried on train-llm: SIGKILL at 50 random moments (or as many as the first argument says, from the seed
# that is the second), a full disk, a run folder that goes away, two processes on one. Some seconds after the build.
set -euo pipefail
cd "$(dirname "$0")/.."
FADAM_KILLS="${1:-50}" FADAM_KILL_SEED="${2:-1}" cargo test --workspace --test survives -- --nocapture --test-threads 1
