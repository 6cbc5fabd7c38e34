#!/usr/bin/env bash
# Build the fuzz targets with clang (libFuzzer, ASan, UBSan) and run each for SECONDS: scripts/fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1 build=build/fuzz
command -v clang++ >/dev/null || { echo "n730c: error: clang++ not found. Install clang to run the fuzz targets." >&2; exit 1; }
cmake -S runtime -B $build -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DN730_FUZZ=ON > $build.log 2>&1 || { cat $build.log; exit 1; }
cmake --build $build -j 2 > $build.log 2>&1 || { cat $build.log; exit 1; }
.venv/bin/python -m tests.fuzz_corpus build/fuzz-corpus
for target in $build/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=$(basename "$target")
    mkdir -p build/fuzz-corpus/"$name"
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 build/fuzz-corpus/"$name" 2> build/"$name".log \
        || { tail -n 40 build/"$name".log >&2; echo "$name: FAILED" >&2; exit 1; }
    echo "$name: clean, $(sed -n 's/^stat::number_of_executed_units: *//p' build/"$name".log) runs"
done
