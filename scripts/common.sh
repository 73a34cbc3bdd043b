# Sourced by the scripts beside it: where things are, and how they speak.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
BIN=$TARGET/release
# Programs of the external suites, and other people's crates: outside the checkout, so that clones share them.
CACHE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}
SUITES=$CACHE/dfs-tests
CRATES=$CACHE/dfs-crates
say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
