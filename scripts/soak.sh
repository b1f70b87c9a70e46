#!/usr/bin/env bash
# A soak: trains for SECONDS with evaluations and checkpoints all the time, and looks at memory and at the CPU time of a step (not the time on
# the wall, so that a busy machine does not matter). Fails unless after the first sixth memory stays within 2 % and a step costs what it did.
#   scripts/soak.sh [SECONDS] [FOLDER]      an hour, in a folder of its own; Linux only
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-3600}
folder=${2:-$(mktemp -d)/soak}
mkdir -p "${folder%/*}"
program=${CARGO_TARGET_DIR:-target}/release/train-llm
[ -r /proc/self/statm ] || { echo "skipped: there is no /proc to look at"; exit 0; }
[ -x "$program" ] || cargo build --release --bin train-llm

"$program" --config configs/llm/tiny.toml --quiet --out "$folder" --set train.steps=1000000000 \
    --set train.eval_every=50 --set checkpoint.every=50 >"${folder%/*}/soak.log" 2>&1 &
process=$!
trap 'kill -KILL $process 2>/dev/null || true' EXIT

samples=${folder%/*}/soak.tsv # seconds, resident pages, ticks of CPU time, steps
: >"$samples"
start=$(date +%s)
while now=$(($(date +%s) - start)) && [ "$now" -lt "$seconds" ]; do
    sleep $((seconds < 600 ? 1 : 10))
    kill -0 $process 2>/dev/null || { echo "it ended by itself:"; tail -n 3 "${folder%/*}/soak.log"; exit 1; }
    # The step of the last whole line; user and system time are fields 14 and 15 of stat, 12 and 13 behind the name.
    step=$(tail -n 1 "$folder/metrics.jsonl" 2>/dev/null | sed -n 's/^{"step":\([0-9]*\),.*}$/\1/p' || true)
    ticks=$(sed 's/.*) //' /proc/$process/stat | awk '{ print $12 + $13 }')
    [ -z "$step" ] || printf '%s\t%s\t%s\t%s\n' "$now" "$(cut -d' ' -f2 /proc/$process/statm)" "$ticks" "$step" >>"$samples"
done

awk -v all="$seconds" -v page="$(getconf PAGESIZE)" -v hertz="$(getconf CLK_TCK)" '
    $1 < all / 6 { next }
    !n++ { first = $2; low = $2; high = $2; t0 = $3; s0 = $4 }
    { if ($2 < low) low = $2; if ($2 > high) high = $2; last = $2; t[n] = $3; s[n] = $4 }
    END {
        if (n < 8 || s[n] <= s0) { print "too few samples: " n; exit 1 }
        third = int(n / 3)
        early = (t[third] - t0) / (s[third] - s0) / hertz; late = (t[n] - t[n - third]) / (s[n] - s[n - third]) / hertz
        printf "%d s, %d steps: resident %.1f MiB after a sixth, %.1f to %.1f since, %.1f at the end; CPU time of a step %.2f ms in the first third, %.2f ms in the last\n",
            all, s[n], first * page / 1048576, low * page / 1048576, high * page / 1048576, last * page / 1048576, 1000 * early, 1000 * late
        if (high > 1.02 * first) { print "memory grows"; exit 1 }
        # In a short run one evaluation more or less in a third is more than that.
        if (all >= 600 && late > 1.1 * early) { print "it slows down"; exit 1 }
    }' "$samples"
