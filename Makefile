# sluice's front door. Thin: configuration lives in CMakePresets.json, building in CMake. `make help`
# lists the targets; plain `make` builds.
#
#   CMAKE_ARGS   more options for CMake, e.g. CMAKE_ARGS=-DSLUICE_CUDA=OFF
#   TEST_ARGS    more options for CTest, e.g. TEST_ARGS='-R engine'
#   MODEL, BENCH_ARGS   what `make bench` measures, and more options for sluice bench
#   SETUP        what installs missing packages; SETUP=: installs nothing

PREFIX       ?= /usr/local
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SETUP        ?= tools/setup
CLANG_FORMAT ?= clang-format

# CI treats warnings as errors; users' newer compilers may warn about more than ours, and GCC warns
# too much in sanitized code.
RELEASE = $(if $(filter true 1,$(CI)),-DSLUICE_WERROR=ON)
FORMATTED = $$(find src include tests examples -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')

# $(call configure,PRESET,FOLDER,OPTIONS): only where it is needed; Ninja itself notices changed
# CMake files.
define configure
@if [ -n "$(strip $(CMAKE_ARGS)$(3))" ] || [ ! -f $(2)/build.ninja ] || \
    [ CMakePresets.json -nt $(2)/build.ninja ]; then \
    cmake --preset $(1) $(3) $(CMAKE_ARGS) && touch $(2)/build.ninja; \
fi
endef

.PHONY: build run test bench asan tsan sim fuzz soak cuda format format-check clean install setup setup-dev help
.NOTPARALLEL:

build: setup ## build/sluice (the default)
	$(call configure,release,build,$(RELEASE))
	@cmake --build build --target product

run: build ## build, serve the bundled model, measure 1 and 32 users; on a terminal, go on as a chat
	@build/sluice hardware
	@build/sluice serve --demo

test: setup ## build and run all tests
	$(call configure,release,build,$(RELEASE))
	@cmake --build build
	@tools/run-tests build $(TEST_ARGS)

bench: build ## measure a model (MODEL=file, by default the bundled one) beside this machine's limits
	@build/sluice bench $(MODEL) $(BENCH_ARGS)

asan: setup ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(call configure,asan,build-asan)
	@cmake --build build-asan
	@tools/run-tests build-asan $(TEST_ARGS)

tsan: setup ## all tests under ThreadSanitizer
	$(call configure,tsan,build-tsan)
	@cmake --build build-tsan
	@tools/run-tests build-tsan $(TEST_ARGS)

sim: setup ## the scheduler's simulator: 10,000 seeds of 10,000 steps (a quarter of an hour)
	$(call configure,release,build,$(RELEASE))
	@cmake --build build --target test_simulation
	@SLUICE_SIM_SEEDS=$${SLUICE_SIM_SEEDS:-10000} SLUICE_SIM_STEPS=$${SLUICE_SIM_STEPS:-10000} \
	    build/tests/test_simulation

fuzz: setup-dev ## every fuzz entry, FUZZ_SECONDS (60) for all together
	$(call configure,fuzz,build-fuzz)
	@cmake --build build-fuzz --target fuzzers
	@tools/fuzz build-fuzz $(FUZZ_SECONDS)

soak: build ## a random crowd on the engine for SOAK_SECONDS (600)
	@cmake --build build --target soak
	@build/soak models/pebble/pebble-q8_0.gguf $(SOAK_SECONDS)

cuda: setup ## build-cuda: everything with the CUDA backend; needs nvcc
	$(call configure,cuda,build-cuda)
	@cmake --build build-cuda

format: setup-dev ## clang-format over all sources
	@$(CLANG_FORMAT) -i $(FORMATTED)

format-check: setup-dev ## fail where `make format` would change something
	@$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)

install: setup ## install under PREFIX (/usr/local); DESTDIR is for packagers
	$(call configure,release,build,$(RELEASE))
	@cmake --build build --target product libsluice
	@cmake --install build --prefix "$(PREFIX)"

clean: ## remove the build folders of this Makefile
	@rm -rf build build-dev build-asan build-tsan build-fuzz build-cuda

setup:
	@$(SETUP)

setup-dev:
	@$(if $(SETUP),$(SETUP) --dev)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1#\2/p' Makefile | \
	    awk -F'#' '{ printf "%-20s %s\n", $$1, $$2 }'
