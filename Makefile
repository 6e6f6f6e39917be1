.PHONY: dev test test-isa parity lint format test-c asan tsan test-aarch64 fuzz fuzz-python asan-python tsan-python \
    leaks digits pictures bench bench-loss bench-pipeline verdict range-test quality kills instructions wheel \
    wheel-check clean

dev:      ; python -m pip install -e ".[test,demo,lint]"
test:     ; python -m pytest
test-isa: ; for isa in $$(python -c "import instep; print(*instep.available_isas())"); do INSTEP_ISA=$$isa python -m pytest -q || exit 1; done
parity:   ; python -m pip install ".[test,parity]" && python -m pytest
lint:     ; ruff check . && ruff format --check . && mypy && python -m mypy.stubtest instep._core && cython-lint src && clang-format --dry-run -Werror $$(git ls-files 'csrc/*.[ch]' 'benchmarks/*.c') && ruff check .ci/wheel_check && ruff format --check .ci/wheel_check && check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml && check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml && zizmor --offline --quiet .github
format:   ; ruff check --fix . && ruff format . && clang-format -i $$(git ls-files 'csrc/*.[ch]' 'benchmarks/*.c')
test-c:   ; bash csrc/tests/run.sh plain
asan:     ; bash csrc/tests/run.sh asan
tsan:     ; bash csrc/tests/run.sh tsan
test-aarch64: ; bash csrc/tests/run.sh aarch64
fuzz:     ; bash csrc/tests/run.sh fuzz $(or $(SECONDS),300)
fuzz-python: ; python tests/trainer_machine.py $(or $(SECONDS),300)
asan-python: ; sh tests/sanitized.sh address
tsan-python: ; sh tests/sanitized.sh thread
leaks:    ; python tests/leaks.py
digits:   ; python examples/digits.py
pictures: ; python docs/draw.py
bench:    ; python -m benchmarks
bench-loss: ; python -m benchmarks.bench_loss
bench-pipeline: ; python -m benchmarks.bench_pipeline
verdict:  ; python -m benchmarks.verdict
range-test: ; python -m benchmarks.range_test
quality:  ; python -m benchmarks.quality --output benchmarks/results/quality.txt --picture docs/quality.png
kills:    ; python tests/checkpoint_kills.py 1000
instructions: ; python -m benchmarks.instructions
wheel:    ; python -m build
wheel-check: ; python3 .ci/wheel_check
clean:    ; rm -rf build dist src/*.egg-info src/instep/_core.c src/instep/*.so
