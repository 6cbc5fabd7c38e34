# Two commands set everything up: `make demo` and `make test`. The rest serves development.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find runtime templates -type f -not -path '*/build/*')
INSTALLED := $(VENV)/.installed

.PHONY: demo test fuzz lint native-test clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# Property tests draw the same examples every time here, so that a run can be repeated; plain pytest draws new ones.
test: $(INSTALLED) lint native-test
	PYTHONUTF8=1 N730_EXEC=$(CURDIR)/$(BIN)/n730-exec $(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile=ci \
		-m "not slow" --durations=12 tests
	$(MAKE) fuzz FUZZ_SECONDS=30

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Unit tests of the runtime, built with the address and undefined-behaviour sanitizers.
native-test: $(INSTALLED)
	cmake -S runtime -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DN730_SANITIZE=ON > build/sanitize.log 2>&1 || (cat build/sanitize.log; exit 1)
	cmake --build build/sanitize -j 2
	ctest --test-dir build/sanitize --output-on-failure

FUZZ_SECONDS ?= 60
fuzz: $(INSTALLED)
	scripts/fuzz.sh $(FUZZ_SECONDS)

$(INSTALLED): $(SOURCES)
	scripts/setup.sh $(PYTHON) $(VENV)
	@touch $@

clean:
	rm -rf build out $(VENV)
