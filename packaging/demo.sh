#!/bin/sh
# From a fresh checkout to the running demo. No root and no QEMU needed.
#   sh packaging/demo.sh [--headless] [--dir DIR]
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
. "$checkout/packaging/bootstrap.sh"
bootstrap ""
exec "$venv/bin/vmconsole" demo "$@"
