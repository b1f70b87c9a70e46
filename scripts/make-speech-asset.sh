#!/bin/sh
# Regenerates crates/fadam-data/assets/speech, the clips that train-asr trains on when it is given no others: FLAC files and their
# manifest clips.tsv (path, text, speaker). crates/fadam-data/examples/make_speech_asset.rs says which prompts are chosen, and encodes them.
#
#     scripts/make-speech-asset.sh            writes the asset
#     scripts/make-speech-asset.sh --check    compares it with the asset in the tree, and changes nothing
#
# The sound comes from three Debian packages. Needs apt-get and dpkg-deb (the packages are not installed), gzip and cargo.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
asset=$root/crates/fadam-data/assets/speech
case "${1:-}" in
"" | --check) ;;
*)
    echo "usage: $0 [--check]" >&2
    exit 2
    ;;
esac
for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || {
        echo "$0: the clips come from Debian packages, and there is no $tool here; run it on Debian or Ubuntu, or in their container" >&2
        exit 1
    }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/out"
(
    cd "$work/packages"
    apt-get -qq download pocketsphinx-testdata asterisk-core-sounds-en asterisk-core-sounds-en-wav || {
        echo "$0: apt-get cannot fetch the packages; is there a network, and has \"apt-get update\" been run?" >&2
        exit 1
    }
    for package in *.deb; do dpkg-deb -x "$package" "$work/files"; done
)
share=$work/files/usr/share
sounds=$share/asterisk/sounds/en_US_f_Allison
copyright=$share/doc/asterisk-core-sounds-en/copyright
gzip -dc "$share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz" >"$work/core-sounds-en.txt"

cd "$root"
cargo run --quiet --release --example make_speech_asset -- \
    "$sounds" "$work/core-sounds-en.txt" "$share/pocketsphinx/test/data" "$work/out"
# The paragraph of the licence, without the marks of Debian's format.
awk 'BEGIN { RS = "" } /^License: CC-BY-SA-3.0\n THE WORK/' "$copyright" |
    sed -e '1s/.*/Creative Commons Attribution-ShareAlike 3.0\n/' -e 's/^ \.$//' -e 's/^ //' >"$work/out/asterisk/LICENSE"

if [ "${1:-}" = --check ]; then
    # The notices are written by hand.
    diff -r --exclude=NOTICE "$work/out" "$asset"
    echo "the asset is what the packages give"
else
    rm -rf "$asset/clips.tsv" "$asset"/*/*.flac "$asset"/*/*/
    cp -r "$work/out/." "$asset"
    echo "wrote $asset"
fi
