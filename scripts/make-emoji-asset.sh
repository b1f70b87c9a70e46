#!/bin/sh
# Regenerates crates/fadam-data/assets/emoji, the pictures that train-vqvae trains on when it is given no others: a sheet of 1,871 emoji of
# 32 x 32 pixels on white (sheet.png) and their code points in its order (names.txt). The output is the same byte for byte on every machine.
#
#     scripts/make-emoji-asset.sh            writes the asset
#     scripts/make-emoji-asset.sh --check    compares it with the asset in the tree, and changes nothing
#
# The pictures are those that scripts/fetch-data.sh fetches, which needs npm (with node) and tar; and cargo, for
# crates/fadam-data/examples/make_emoji_asset.rs, which makes them small.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
asset=$root/crates/fadam-data/assets/emoji
case "${1:-}" in
"" | --check) ;;
*)
    echo "usage: $0 [--check]" >&2
    exit 2
    ;;
esac

"$root/scripts/fetch-data.sh" emoji
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
cargo run --quiet --release --example make_emoji_asset -- "$root/data/emoji" "$work"

if [ "${1:-}" = --check ]; then
    # The notice is written by hand.
    diff -r --exclude=NOTICE "$work" "$asset"
    echo "the asset is what scripts/fetch-data.sh fetches: $(wc -l <"$asset/names.txt") pictures, $(wc -c <"$asset/sheet.png") bytes"
else
    cp "$work/sheet.png" "$work/names.txt" "$asset"
    echo "wrote $asset"
fi
