#!/usr/bin/env bash
# Classify the lines of standard input with optimum-onnx, from each ONNX file of DIR.
#
#   scripts/tools/interop/optimum_onnx.sh DIR [VENV] < texts
#
# optimum-onnx needs transformers < 4.58, the exporter needs 5: hence an environment of its own,
# made in VENV and kept there, or in a temporary folder (about 1.3 GB, one to two minutes).
# Standard output is for compare_answers.py; what pip says goes to standard error.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: optimum_onnx.sh DIR [VENV] < texts" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -eq 2 ]; then
    venv="$2"
else
    venv="$(mktemp -d)"
    trap 'rm -rf "$venv"' EXIT
fi
if [ ! -e "$venv/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet -c "$here/../../../constraints.txt" \
        'optimum-onnx[onnxruntime]>=0.1' 'transformers<4.58' >&2
    touch "$venv/.installed"
fi
HF_HUB_OFFLINE=1 "$venv/bin/python" "$here/optimum_onnx.py" "$1"
