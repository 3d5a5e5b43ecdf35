#!/usr/bin/env bash
# Runs every bench, leaves what they found in docs/benchmarks.jsonl, and writes docs/benchmarks.svg and docs/benchmarks.md from
# that, and docs/scale.md. At most 25 minutes on two cores, the builds aside; on a machine that does nothing else the times are worth
# more. --short: five minutes, fewer requests and hosts, and docs stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

short=0
[[ ${1-} == --short ]] && short=1
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
export BENCH_JSON=$target/benchmarks.jsonl
rm -f "$BENCH_JSON"

cargo build --locked --release -p tower-keep-alive-benches --bins

# bench NAME ARGUMENT...: a limit that it misses is printed, and the others still run.
bench() {
    local begun=$SECONDS
    echo
    echo "== $*"
    "$target/release/$1" "${@:2}" || echo "($1 failed)"
    echo "($1: $((SECONDS - begun)) s)"
}

if ((short)); then
    bench instructions --check
    bench throughput --rounds 3 --requests 5000
    bench lost --requests 3000
    bench memory --connections 1000 --hosts 10000
    bench pool --most 10000 --millis 10
    bench tls --short
    bench tail --short
    bench scale --short
    bench headline --short
    exit
fi
bench instructions
bench throughput
bench lost
bench spread
bench memory
bench pool
bench tls
bench tail --seconds 1
bench scale --write
bench headline --requests 12000
echo
echo "== request"
cargo bench --locked -p tower-keep-alive-benches --bench request
echo
cp "$BENCH_JSON" docs/benchmarks.jsonl
"$target/release/figure"
