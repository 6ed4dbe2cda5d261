# Two targets that a newcomer needs:
#
#   make compare   what does a patch do to memory and CPU hotplug?
#                  PATCH=file-or-folder  SOURCE=package-tarball-folder-or-repo@rev  SCENARIO=file  ARGS=more options
#   make test      every test, those with real kernels and real QEMU included
#
# and three for those who work on it: make bench [ONLY=name] for the figures; make fixtures [SOURCE=...] for the logs of
# kernels that misbehave; make fuzz [TARGET=lock_order] [SECONDS=600] for bytes that no kernel printed. All set up what
# they need; everything else is the binary.

PATCH    ?= guest-images/patches/seed/0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch
SCENARIO ?= scenarios/dimm-and-cpu.toml
SOURCE   ?=
ARGS     ?=

HOTPLUG = target/release/hotplug

.PHONY: compare test bench fixtures fuzz setup build linker

# The binary's status is the verdict; here only a comparison that did not work is a failure.
compare: setup
	@status=0; \
	$(HOTPLUG) compare $(if $(SOURCE),--source '$(SOURCE)') --scenario '$(SCENARIO)' $(ARGS) $(if $(PATCH),'$(PATCH)') || status=$$?; \
	case $$status in 0|1|3) exit 0 ;; *) exit $$status ;; esac

test: setup
	cargo test --workspace --release --locked

bench: setup
	cargo bench --locked --bench figures -- $(ONLY)

fixtures: setup
	HOTPLUG_WRITE_FIXTURES=1 $(if $(SOURCE),HOTPLUG_FIXTURE_SOURCE='$(SOURCE)') cargo test --release --locked --test provoke

# cargo-fuzz wants a nightly for its sanitizers; the code under test has no unsafe, so they would find nothing.
FUZZ_TOOLS = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hotplug-ci
fuzz: SECONDS = 600
fuzz: TARGET = kernel_log
FUZZ_SEEDS_kernel_log = kreport
FUZZ_SEEDS_lock_order = lock_order
fuzz: linker
	@command -v c++ >/dev/null || { echo "make: no C++ compiler, which libFuzzer needs: install g++" >&2; exit 2; }
	@$(FUZZ_TOOLS)/bin/cargo-fuzz --version >/dev/null 2>&1 || cargo install --locked --debug --quiet --root '$(FUZZ_TOOLS)' cargo-fuzz
	@mkdir -p target/fuzz-corpus/$(TARGET)
	cd harness && $(FUZZ_TOOLS)/bin/cargo-fuzz run --sanitizer none $(TARGET) \
	  ../target/fuzz-corpus/$(TARGET) tests/fixtures/$(FUZZ_SEEDS_$(TARGET)) -- -max_total_time=$(SECONDS) -max_len=65536 -timeout=10

setup: build
	@$(HOTPLUG) doctor --install

build: linker
	cargo build --release --locked

# All that Rust needs and a fresh Debian may lack. The rest is the doctor's business, once it is built.
linker:
	@command -v cargo >/dev/null || { echo "make: no cargo: install a Rust toolchain first, see README.md" >&2; exit 2; }
	@command -v cc >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "make: no C compiler: install gcc and the C library's headers" >&2; exit 2; }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update && $$sudo apt-get install -y --no-install-recommends gcc libc6-dev; }
