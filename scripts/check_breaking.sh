#!/usr/bin/env bash
# Compares the contracts with those of the main branch: what peers of the last release rely on must stay.
# Needs .build/image.binpb, which `make check` makes.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

build=.build
if git rev-parse --verify --quiet origin/main >/dev/null; then
  base=$(git merge-base HEAD origin/main)
else
  base=$(git rev-parse --verify --quiet main || true)
fi
if [ "$base" = "$(git rev-parse HEAD)" ] && git diff --quiet HEAD -- protos/bulkscribe; then
  base=$(git rev-parse --verify --quiet HEAD^ || true) # on the main branch itself: what the last change did
fi
if [ -z "$base" ] || ! git cat-file -e "$base:protos/bulkscribe" 2>/dev/null; then
  echo "buf breaking: skipped, the main branch has no contracts to compare with."
  exit 0
fi

rm -rf "$build/base"
mkdir -p "$build/base"
git archive "$base" protos/bulkscribe | tar -x -C "$build/base"
.venv/bin/python protos/generate.py --protos "$build/base/protos" --image "$build/base.binpb"
.venv/bin/buf breaking "$build/image.binpb" --against "$build/base.binpb" --config buf.yaml --path bulkscribe
