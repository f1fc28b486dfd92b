#!/bin/sh
# Runs every fuzz target for SECONDS (default 30), on stable Rust and without cargo-fuzz.
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]
#
# libFuzzer itself comes with the crate libfuzzer-sys. The coverage counters it steers by are an
# LLVM pass, which stable rustc can add with -Cpasses; only the sanitizers would need nightly, and
# the code is safe Rust. What is found stays in tests/fuzz/artifacts, and a finding fails the run:
# turn it into a test beside the code, and keep the input in tests/fuzz/seeds.
set -eu

seconds="${1:-30}"
[ $# -eq 0 ] || shift
here="$(cd "$(dirname "$0")" && pwd)"
[ $# -gt 0 ] || set -- amqp_decode mqtt_decode record_decode log_recover

target="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mainstem/target}/fuzz"
# A target triple of its own keeps the counters out of build scripts and macros.
triple="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTFLAGS="--cfg fuzzing \
 -Cpasses=sancov-module \
 -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
 -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares"
cd "$here"
cargo build --release --locked --target "$triple" --target-dir "$target"

failed=""
for name in "$@"; do
    corpus="$target/corpus/$name"
    mkdir -p "$corpus" "artifacts/$name"
    echo "== $name, $seconds s"
    if "$target/$triple/release/$name" "$corpus" "seeds/$name" \
        -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=2048 -timeout=10 \
        -use_value_profile=1 -print_final_stats=1 -artifact_prefix="artifacts/$name/" \
        >"$target/$name.log" 2>&1; then
        sed -n 's/^Done \(.*\)/   \1/p; s/^stat::number_of_executed_units: */   executions: /p' "$target/$name.log"
    else
        tail -n 40 "$target/$name.log"
        failed="$failed $name"
    fi
done
[ -z "$failed" ] || { echo "fuzzing failed:$failed (inputs in tests/fuzz/artifacts)"; exit 1; }
