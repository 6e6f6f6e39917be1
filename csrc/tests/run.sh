#!/bin/sh
# Build the core and its C tests in a temporary directory and run them.
#
#   csrc/tests/run.sh [plain|asan|tsan]
#
# The flags of the core are those of setup.py. CC and CFLAGS (added last) are honoured.
# shellcheck disable=SC2086  # lists of flags
set -eu
mode=${1:-plain}
cc=${CC:-gcc}
cd "$(dirname "$0")/../.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# The flags of all files (unix) or of csrc/isa/NAME.c, or the list of such names (isas).
flags() {
    python3 - "$1" <<'PYTHON'
import ast, os, sys

tree = ast.parse(open("setup.py").read())
wanted = {"SANITIZE", "UNIX", "DEBUG", "FLAGS", "ISA"}
assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
tree.body = [node for node in assignments if ast.unparse(node.targets[0]) in wanted]
tables = {"os": os}
exec(compile(tree, "setup.py", "exec"), tables)
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
isas=
for isa in $(flags isas); do
    if $cc $(flags "$isa") -x c -c /dev/null -o "$build/probe" 2>/dev/null; then
        $cc $common $(flags "$isa") -c "csrc/isa/$isa.c" -o "$build/isa_$isa.o" &
        isas="$isas $isa"
        have="$have -DINSTEP_HAVE_$(echo "$isa" | tr '[:lower:]' '[:upper:]')"
    fi
done
for source in csrc/*.c; do
    $cc $common $have -c "$source" -o "$build/$(basename "$source" .c).o"
done
wait

failed=
tests="core plan loss classes labels region threads pool"
[ "$mode" = tsan ] && tests="threads pool" # the others have one thread
for test in $tests; do
    $cc $common "csrc/tests/test_$test.c" "$build"/*.o -lm -o "$build/test_$test"
    echo "== test_$test ($mode)"
    $launch "$build/test_$test" || failed="$failed $test"
done

# Arithmetic alone: nothing for a sanitizer to find. All levels must print the same hash.
if [ "$mode" = plain ]; then
    for isa in $isas; do
        $cc $common $(flags "$isa") csrc/tests/test_vmath.c -lm -o "$build/test_vmath"
        echo "== test_vmath ($isa)"
        status=0
        "$build/test_vmath" >"$build/vmath.txt" || status=$?
        cat "$build/vmath.txt"
        case $status in
        0) grep hash "$build/vmath.txt" >>"$build/hashes.txt" ;;
        132) echo "this CPU lacks $isa" ;; # SIGILL
        *) failed="$failed vmath-$isa" ;;
        esac
    done
    [ "$(sort -u "$build/hashes.txt" | wc -l)" = 1 ] || failed="$failed vmath-hash"
fi

[ -z "$failed" ] || echo "failed:$failed" >&2
[ -z "$failed" ]
