#!/usr/bin/env bash
# Downloads the sample files of iscc-samples 0.6.0 (CC-BY-4.0; one film in about 20 containers, 54 MB) into
# .cache/iscc-samples and prints the folder for FAVOR_ISCC_SAMPLES:
#
#     FAVOR_ISCC_SAMPLES=$(tests/fetch_iscc_samples.sh) pytest -m media
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache/iscc-samples
archive=$cache/iscc_samples-0.6.0.tar.gz
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3

mkdir -p "$cache"
if [[ ! -f $archive ]]; then
    "$python" -m pip download --quiet --no-deps --no-binary :all: --dest "$cache" iscc-samples==0.6.0 >&2
fi
if [[ ! -d $cache/iscc_samples-0.6.0 ]]; then
    tar -xzf "$archive" -C "$cache" --no-same-owner
fi
echo "$cache/iscc_samples-0.6.0/iscc_samples/files"
