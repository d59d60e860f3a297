#!/usr/bin/env bash
# Transcribes a folder of recordings; `scripts/run_batch.sh --help` lists the options.
set -euo pipefail

root="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)"

if [ ! -e "$root/.venv/.installed" ]; then
  echo "Setting up (once) ..." >&2
  make -s -C "$root" setup >&2
fi

# -P and PYTHONPATH: a folder named `scripts` where this is called from must not come first.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$root/.venv/bin/python" -P -m scripts.batch "$@"
