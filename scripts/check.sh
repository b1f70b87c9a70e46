#!/usr/bin/env bash
# What can be said without running the code, cheapest first. Needs rustfmt and clippy; spelling and licences are checked where `typos` and
# `cargo-deny` are installed (CI installs them), and the skip is printed where they are not.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
optional() { # optional COMMAND ARGS: runs it, or says that it was skipped
    if command -v "$1" >/dev/null 2>&1; then "$@"; else echo "skipped: $1 is not installed"; fi
}

step "format"
cargo fmt --all --check
step "spelling"
optional typos
step "licences, bans, sources"
optional cargo-deny check licenses bans sources
step "advisories"
if ! command -v cargo-deny >/dev/null; then
    echo "skipped: cargo-deny is not installed"
elif timeout 60 cargo-deny fetch db >/dev/null 2>&1; then
    cargo-deny check advisories
else
    echo "skipped: the database of advisories cannot be reached"
fi
step "lints"
cargo clippy --workspace --all-targets -- -D warnings
step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
