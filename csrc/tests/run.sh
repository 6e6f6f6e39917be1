#!/bin/sh
# Build the core and its C tests in a temporary directory and run them.
#
#   csrc/tests/run.sh [plain|asan|tsan]
#
# The flags of the core are those of setup.py. CC and CFLAGS (added last) are honoured.
set -eu
mode=${1:-plain}
cc=${CC:-gcc}
cd "$(dirname "$0")/../.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# flags of all files (NAME = unix), or of csrc/isa/NAME.c
flags() {
    python3 - "$1" <<'PYTHON'
import ast, sys
tables = {}
for node in ast.parse(open("setup.py").read()).body:
    if isinstance(node, ast.Assign) and node.targets[0].id in ("FLAGS", "ISA"):
        tables[node.targets[0].id] = ast.literal_eval(node.value)
isas = {name: flags["unix"] for name, flags in tables["ISA"].items()}
print(*{"unix": tables["FLAGS"]["unix"], "isas": isas, **isas}[sys.argv[1]])
PYTHON
}

common="$(flags unix) -Icsrc -Icsrc/include -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    -Wstrict-prototypes -Werror"
launch=
case $mode in
plain) ;;
asan) common="$common -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all
    -fsanitize=address,undefined" ;;
tsan)
    common="$common -O1 -g -fno-omit-frame-pointer -fsanitize=thread"
    # Its shadow memory wants a fixed layout; a child of a fork may start threads.
    launch="setarch -R"
    export TSAN_OPTIONS="die_after_fork=0 halt_on_error=1 ${TSAN_OPTIONS:-}"
    ;;
*)
    echo "usage: $0 [plain|asan|tsan]" >&2
    exit 2
    ;;
esac
common="$common ${CFLAGS:-}"

have=
for isa in $(flags isas); do
    # shellcheck disable=SC2086  # lists of flags
    if $cc $(flags "$isa") -x c -c /dev/null -o "$build/probe" 2>/dev/null; then
        $cc $common $(flags "$isa") -c "csrc/isa/$isa.c" -o "$build/isa_$isa.o" &
        have="$have -DINSTEP_HAVE_$(echo "$isa" | tr '[:lower:]' '[:upper:]')"
    fi
done
for source in csrc/*.c; do
    $cc $common $have -c "$source" -o "$build/$(basename "$source" .c).o"
done
wait

tests="core plan loss pool"
for test in $tests; do
    $cc $common "csrc/tests/test_$test.c" "$build"/*.o -lm -o "$build/test_$test"
done
for test in $tests; do
    echo "== test_$test ($mode)"
    $launch "$build/test_$test"
done
if [ "$mode" = plain ]; then # arithmetic alone: nothing for a sanitizer to find
    for isa in $(flags isas); do
        $cc $common $(flags "$isa") csrc/tests/test_vmath.c -lm -o "$build/test_vmath_$isa" ||
            continue
        echo "== test_vmath ($isa)"
        "$build/test_vmath_$isa"
    done
fi
