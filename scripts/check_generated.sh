#!/usr/bin/env bash
# Makes everything that is generated once more, and compares it with what is committed.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

build=.build
rm -rf "$build/gen"
.venv/bin/python protos/generate.py --out "$build/gen"
if ! diff -r --brief --exclude=__pycache__ "$build/gen" protos/gen; then
  echo "protos/gen is not what the contracts make; run: make protos" >&2
  exit 1
fi
if [ -f docs/generate.py ]; then
  .venv/bin/python docs/generate.py --check
fi
