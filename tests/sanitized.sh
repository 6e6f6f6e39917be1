#!/bin/sh
# Run Python tests over an extension built with sanitizers, in a copy of this directory.
#
#   tests/sanitized.sh address|thread [pytest arguments, default: see below]
#
# Python and NumPy are not instrumented: leaks are looked for by tests/leaks.py. The sanitizers come
# first by LD_PRELOAD, also in the processes that tests start. PYTHON names the interpreter.
set -eu
python=${PYTHON:-python}
kind=$1
shift
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -cf - --exclude=./.git --exclude=./build --exclude=./dist . | tar -xf - -C "$work"
cd "$work"
rm -f src/instep/*.so
# torch under a sanitizer takes gigabytes and minutes, and is not what is tested: it is not found.
mkdir without
echo 'raise ModuleNotFoundError("No module named torch", name="torch")' >without/torch.py
library() { "${CC:-gcc}" -print-file-name="lib$1.so"; }

export PYTHONMALLOC=malloc PYTHONPATH="$work/without:$work/src" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
launch=
case $kind in
address)
    INSTEP_SANITIZE=address,undefined "$python" setup.py -q build_ext -i
    export ASAN_OPTIONS="detect_leaks=0 allocator_may_return_null=1 ${ASAN_OPTIONS:-}"
    export UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1 ${UBSAN_OPTIONS:-}"
    preload="$(library asan) $(library ubsan)"
    # Left out: RLIMIT_AS and RLIMIT_DATA, which leave no room for the shadow memory.
    [ $# -gt 0 ] || set -- -k 'not out_of_memory' tests
    ;;
thread)
    INSTEP_SANITIZE=thread "$python" setup.py -q build_ext -i
    # Its shadow memory wants a fixed layout; a child of a fork may start threads.
    launch="setarch -R"
    export TSAN_OPTIONS="die_after_fork=0 halt_on_error=1 ${TSAN_OPTIONS:-}"
    preload=$(library tsan)
    # What has threads, of Python or of the core.
    [ $# -gt 0 ] || set -- tests/test_threads.py tests/test_steady.py \
        tests/test_checkpoint_files.py tests/test_callbacks.py
    ;;
*)
    echo "usage: $0 address|thread [pytest arguments]" >&2
    exit 2
    ;;
esac
# shellcheck disable=SC2086  # $launch is words
LD_PRELOAD="$preload" $launch "$python" -m pytest -q -p no:cacheprovider -p no:randomly "$@"
