#!/bin/sh
# Build the core and its C tests in a temporary directory and run them.
#
#   csrc/tests/run.sh [plain|asan|tsan|aarch64|musl|windows|fuzz [SECONDS]]
#
# plain checks vmath over every float32, which takes minutes; with VMATH_EVERY=16 one block in 16.
# asan also replays the corpora of the fuzz targets. fuzz, which needs clang: libFuzzer for SECONDS
# (300) on each target (TARGETS: "plan loss state"), adding what it finds new to the corpora in CORPORA,
# by default a temporary copy.
#
# aarch64 (under qemu), musl, windows (under wine, by the clang whose clang-cl builds the wheels):
# build for another platform, run there, and compare bits with this one's. Exits 77 where the
# compiler (CROSS) or the emulator is missing. For every float32 there, which takes hours, run
# test_vmath without `sample`.
#
# The flags of the core are those of setup.py. CC and CFLAGS (added last) are honoured. Programs are
# called .exe, as Windows wants: wine would start a program of this system, too.
# shellcheck disable=SC2086  # lists of flags
set -eu
mode=${1:-plain}
seconds=${2:-300}
cc=${CC:-gcc}
cd "$(dirname "$0")/../.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# The flags of all files (unix), those of csrc/isa/NAME.c (NAME), how GCC optimizes it (kernels NAME),
# or the list of such names (isas).
flags() {
    python3 - "$@" <<'PYTHON'
import ast, os, sys

tree = ast.parse(open("setup.py").read())
wanted = {"SANITIZE", "UNIX", "SMALL", "DEBUG", "FLAGS", "ISA", "HALVES", "NO_HALVES", "KERNELS"}
assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
tree.body = [node for node in assignments if ast.unparse(node.targets[0]) in wanted]
tables = {"os": os}
exec(compile(tree, "setup.py", "exec"), tables)
isas = tables["ISA"]
if sys.argv[1] == "kernels":
    print(*tables["KERNELS"][sys.argv[2]])
else:
    print(*{"unix": tables["FLAGS"]["unix"], "isas": isas, **isas}[sys.argv[1]])
PYTHON
}

# How $cc optimizes csrc/isa/$1.c, as in setup.py.
kernels() {
    case $mode in asan | tsan | fuzz) return ;; esac
    if $cc $(flags kernels "$1") -Werror -x c -c /dev/null -o "$build/probe" 2>/dev/null; then
        flags kernels "$1"
    else
        echo -O3
    fi
}

# Exit 77 unless there are the programs $2..., which are in the packages $1 of Debian.
needs() {
    packages=$1
    shift
    for program; do
        command -v "$program" >/dev/null && continue
        echo "$0: $mode needs $program. On Debian:" >&2
        echo "    apt-get install $packages" >&2
        exit 77
    done
}

common="$(flags unix) -Icsrc -Icsrc/include -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wstrict-prototypes -Werror"
launch=
case $mode in
plain) ;;
aarch64)
    cross=${CROSS:-aarch64-linux-gnu-gcc}
    emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static || echo qemu-aarch64)
    needs "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" "$cross" "$emulator"
    cross="$cross -static"
    there=
    ;;
musl)
    cross=${CROSS:-musl-gcc}
    emulator=
    needs musl-tools "$cross"
    cross="$cross -static"
    there="plan labels threads pool"
    ;;
windows)
    cross=${CROSS:-clang-19}
    emulator=$(command -v wine64 || echo /usr/lib/wine/wine64)
    needs "clang-19 gcc-mingw-w64-x86-64-posix wine64" "$cross" x86_64-w64-mingw32-gcc "$emulator"
    cross="$cross --target=x86_64-w64-windows-gnu -fasynchronous-unwind-tables -static -D__USE_MINGW_ANSI_STDIO=1"
    there="region labels threads" # the pool's needs fork, the plan's a precise powl
    export WINEPREFIX="$build/wine" WINEDEBUG=-all
    server=$(command -v wineserver || echo /usr/lib/wine/wineserver) # it writes until it ends
    trap '"$server" -k -w; rm -rf "$build"' EXIT
    ;;
asan) common="$common -O1 -g -fno-omit-frame-pointer -fasynchronous-unwind-tables -fno-sanitize-recover=all
    -fsanitize=address,undefined" ;;
fuzz)
    cc=${CC:-clang-19}
    common="$common -g -fno-omit-frame-pointer -fasynchronous-unwind-tables -fno-sanitize-recover=all
        -fsanitize=address,undefined,fuzzer-no-link"
    ;;
tsan)
    common="$common -O1 -g -fno-omit-frame-pointer -fasynchronous-unwind-tables -fsanitize=thread"
    # Its shadow memory wants a fixed layout; a child of a fork may start threads.
    launch="setarch -R"
    export TSAN_OPTIONS="die_after_fork=0 halt_on_error=1 ${TSAN_OPTIONS:-}"
    ;;
*)
    echo "usage: $0 [plain|asan|tsan|aarch64|musl|windows|fuzz [SECONDS]]" >&2
    exit 2
    ;;
esac
common="$common ${CFLAGS:-}"

# Compile the core into the directory $1; sets isas, the instruction sets that $cc knows.
build_core() {
    have=
    isas=
    mkdir "$1"
    for isa in $(flags isas); do
        if $cc $(flags "$isa") -x c -c /dev/null -o "$build/probe" 2>/dev/null; then
            kernels=$(kernels "$isa")
            $cc $common $(flags "$isa") $kernels ${CFLAGS:-} -c "csrc/isa/$isa.c" -o "$1/isa_$isa.o" &
            isas="$isas $isa"
            have="$have -DINSTEP_HAVE_$(echo "$isa" | tr '[:lower:]' '[:upper:]')"
        fi
    done
    for source in csrc/*.c; do
        $cc $common $have -c "$source" -o "$1/$(basename "$source" .c).o"
    done
    wait
}

# Do the files $2... hold the same lines?
same_lines() {
    name=$1 first=$2
    shift 2
    for file; do
        diff "$first" "$file" && continue
        echo "$name: $(basename "$file") differs from $(basename "$first")" >&2
        failed="$failed $name"
    done
}

# Print the bits that the core in $build/$1 computes on each level of its CPU to
# $build/bits.$1.LEVEL.
print_bits() {
    $cc $common csrc/tests/print_bits.c "$build/$1"/*.o -lm -o "$build/print_bits.$1.exe"
    for isa in $isas; do
        echo "== print_bits ($1, $isa)"
        status=0
        $launch "$build/print_bits.$1.exe" "$isa" >"$build/printed" || status=$?
        if [ $status = 2 ]; then
            echo "this CPU lacks $isa"
            continue
        fi
        [ $status = 0 ] || failed="$failed print_bits-$isa"
        tr -d '\r' <"$build/printed" >"$build/bits.$1.$isa"
    done
}

# Print the hash of vmath's results, in the directory of the core $1, to $build/vmath.$1.
sample_vmath() {
    echo "== test_vmath sample ($1)"
    $cc $common $(kernels baseline) csrc/tests/test_vmath.c -lm -o "$build/test_vmath.$1.exe"
    $launch "$build/test_vmath.$1.exe" sample >"$build/printed" || failed="$failed vmath-$1"
    tr -d '\r' <"$build/printed" >"$build/vmath.$1"
}

# Build and run the tests $2... with the core in $build/$1.
run_tests() {
    core=$1
    shift
    for test; do
        $cc $common "csrc/tests/test_$test.c" "$build/$core"/*.o -lm -o "$build/test_$test.exe"
        echo "== test_$test ($mode)"
        $launch "$build/test_$test.exe" || failed="$failed $test"
    done
}

failed=
build_core "$build/core"

if [ -n "${cross:-}" ]; then
    print_bits core
    sample_vmath core
    cc=$cross
    launch=$emulator
    build_core "$build/$mode"
    print_bits "$mode"
    sample_vmath "$mode"
    cat "$build/vmath.$mode"
    wc -l "$build/bits.$mode".*
    same_lines bits "$build"/bits.*
    same_lines vmath "$build"/vmath.*
    run_tests "$mode" $there
    [ -z "$failed" ] || echo "failed:$failed" >&2
    [ -z "$failed" ]
    exit
fi

# Cases that the fuzzers found worth keeping; a new finding is kept in the working directory.
targets=${TARGETS:-plan loss state}
if [ "$mode" = fuzz ]; then
    corpora=${CORPORA:-$build/corpora}
    for target in $targets; do
        $cc -std=gnu11 -O2 -g -Icsrc/include -DINSTEP_LIBFUZZER -c "csrc/tests/fuzz_$target.c" -o "$build/fuzz_$target.o"
        $cc -fsanitize=address,undefined,fuzzer "$build/fuzz_$target.o" "$build"/core/*.o -lm \
            -pthread -o "$build/fuzz_$target"
        mkdir -p "$corpora/$target"
        echo "== fuzz_$target ($seconds s)"
        "$build/fuzz_$target" -max_total_time="$seconds" -max_len=400 -len_control=0 \
            -timeout=120 -print_final_stats=1 -artifact_prefix="finding-$target-" \
            "$corpora/$target" "csrc/tests/corpus/$target" 2>"$build/log" ||
            failed="$failed fuzz_$target"
        grep -E 'not so|runtime error|ERROR|SUMMARY|^stat::' "$build/log" || true
    done
    [ -z "$failed" ] || echo "failed:$failed" >&2
    [ -z "$failed" ]
    exit
fi

tests="core plan extras gradients stored loss classes labels region threads pool"
[ "$mode" = tsan ] && tests="threads pool" # the others have one thread
run_tests core $tests

if [ "$mode" = asan ]; then
    for target in $targets; do
        $cc $common "csrc/tests/fuzz_$target.c" "$build"/core/*.o -lm -o "$build/fuzz_$target"
        echo "== fuzz_$target (corpus)"
        "$build/fuzz_$target" "csrc/tests/corpus/$target" -n 200 || failed="$failed fuzz_$target"
    done
fi

# Arithmetic alone: nothing for a sanitizer to find. All levels must print the same.
if [ "$mode" = plain ]; then
    print_bits core
    same_lines bits "$build"/bits.*
    only= # the errors of one level's results are those of all that have its hash: the fastest first
    fastest_first=
    for isa in $isas; do fastest_first="$isa $fastest_first"; done
    for isa in $fastest_first; do
        $cc $common $(flags "$isa") $(kernels "$isa") csrc/tests/test_vmath.c -lm -o "$build/test_vmath"
        echo "== test_vmath ($isa)"
        status=0
        "$build/test_vmath" $only >"$build/vmath.txt" || status=$?
        cat "$build/vmath.txt"
        case $status in
        0)
            grep hash "$build/vmath.txt" >>"$build/hashes.txt"
            only=hash
            ;;
        132) echo "this CPU lacks $isa" ;; # SIGILL
        *) failed="$failed vmath-$isa" ;;
        esac
    done
    [ "$(sort -u "$build/hashes.txt" | wc -l)" = 1 ] || failed="$failed vmath-hash"
fi

[ -z "$failed" ] || echo "failed:$failed" >&2
[ -z "$failed" ]
