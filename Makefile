# Two targets for newcomers:
#
#   make compare   what a patch does to memory and CPU hotplug. PATCH=file-or-folder
#                  SOURCE=package-tarball-folder-or-repo@rev  SCENARIO=file-or-name  ARGS=more options
#                  WIDE=1 builds kernels with more callbacks of hotplug, in half as much time again
#                  ARCH=ppc64le judges it on POWER (docs/power.md)
#   make test      the tests that a change must pass, on real kernels and real QEMU.
#                  ONLY=words runs the tests whose names contain the words
#
# make check runs the tests that need neither a kernel nor QEMU, in a minute. make nightly runs
# everything, in hours (docs/testing.md). Four targets are for the development of hotplug: make
# bench [ONLY=name] measures the figures. make fixtures [SOURCE=...] records the logs of kernels
# that misbehave. make fuzz [TARGET=lock_order] [SECONDS=600] feeds the parsers input that no kernel
# printed. make reference repeats the run that the README shows, in results/reference. Each target
# installs what it needs. The binary does everything else.

PATCH    ?= guest-images/patches/seed/0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch
SCENARIO ?=
SOURCE   ?=
WIDE     ?=
ARCH     ?=
ARGS     ?=

HOTPLUG = target/release/hotplug

.PHONY: compare check test nightly kernels bench fixtures reference fuzz setup build linker power tools nextest xmllint slurm

# The binary's exit status is the verdict. This target fails only if the comparison itself failed.
# The first verdict should come in minutes, so the kernels are narrow.
compare: $(if $(ARCH),power) setup
	@status=0; \
	$(HOTPLUG) compare $(if $(WIDE),--wide,$(if $(findstring --continue,$(ARGS)),,--narrow)) $(if $(ARCH),--arch '$(ARCH)') $(if $(SOURCE),--source '$(SOURCE)') $(if $(SCENARIO),--scenario '$(SCENARIO)') $(ARGS) $(if $(PATCH),'$(PATCH)') || status=$$?; \
	case $$status in 0|1|3) exit 0 ;; *) exit $$status ;; esac

# All tests run under cargo-nextest. .config/nextest.toml defines the tests of each tier and the
# time limit of each test.
ONLY   ?=
TOOLS   = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hotplug-ci
NEXTEST = PATH="$(TOOLS)/bin:$$PATH" cargo nextest run --workspace --release --locked

check: nextest xmllint build
	cargo fmt --all --check
	$(NEXTEST) --profile check $(ONLY)

test nightly: ARCH = ppc64le
test: power setup tools nextest kernels
	$(NEXTEST) $(ONLY)

nightly: power setup tools slurm nextest kernels
	PATH="$(TOOLS)/bin:$$PATH" .ci/nightly

# Builds the kernels that most tests boot, one after the other, so that each build has both cores. A
# test that needs another kernel builds it itself, from the same objects.
kernels: setup
	$(HOTPLUG) kernel build guest-images/patches/seed
	$(HOTPLUG) kernel build --config guest-images/configs/provoke.config guest-images/patches/provoke
	$(HOTPLUG) kernel build --arch ppc64le guest-images/patches/seed

bench: setup
	cargo bench --locked --bench figures -- $(ONLY)

fixtures: setup
	HOTPLUG_WRITE_FIXTURES=1 $(if $(SOURCE),HOTPLUG_FIXTURE_SOURCE='$(SOURCE)') cargo test --release --locked --test provoke

# Judges the patch that the project began with, as make compare does. The results, the page with a
# screenshot, the mail, the first two trials of each side, and the beginning of one trial's kernel
# log are kept.
REFERENCE = results/reference
reference: setup tools
	rm -rf target/reference
	$(HOTPLUG) compare --narrow --seed 1 --results target/reference '$(PATCH)' || [ $$? = 1 ]
	rm -rf $(REFERENCE) && mkdir -p $(REFERENCE)/trials
	cd target/reference/2*/ && cp -r run.json result.json report.html scenarios patches '$(CURDIR)/$(REFERENCE)'
	for trial in dimm-and-cpu-before-000 dimm-and-cpu-after-000 memoryless-node-before-000 memoryless-node-after-000; do \
	  mkdir $(REFERENCE)/trials/$$trial && cp target/reference/2*/trials/$$trial/trial.json $(REFERENCE)/trials/$$trial; done
	head -n 200 target/reference/2*/trials/dimm-and-cpu-after-000/kmsg.log > $(REFERENCE)/trials/dimm-and-cpu-after-000/kmsg.log
	$(HOTPLUG) report target/reference/2* > $(REFERENCE)/screen.txt
	$(HOTPLUG) report target/reference/2* --mail > $(REFERENCE)/mail.txt
	$(HOTPLUG) report target/reference/2* --junit > $(REFERENCE)/junit.xml
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1500 \
	  --user-data-dir='$(CURDIR)/target/chromium' --screenshot='$(CURDIR)/$(REFERENCE)/page.png' 'file://$(CURDIR)/$(REFERENCE)/report.html' 2>target/chromium.log

# cargo-fuzz needs a nightly toolchain for its sanitizers. The code under test has no unsafe code,
# so they would find nothing.
fuzz: SECONDS = 600
fuzz: TARGET = kernel_log
FUZZ_SEEDS_kernel_log = kreport/tests/fixtures
FUZZ_SEEDS_lock_order = lockorder/tests/fixtures
fuzz: linker
	@command -v c++ >/dev/null || { echo "make: no C++ compiler, which libFuzzer needs: install g++" >&2; exit 2; }
	@$(TOOLS)/bin/cargo-fuzz --version >/dev/null 2>&1 || cargo install --locked --debug --quiet --root '$(TOOLS)' cargo-fuzz
	@mkdir -p target/fuzz-corpus/$(TARGET)
	cd harness && $(TOOLS)/bin/cargo-fuzz run --sanitizer none $(TARGET) \
	  ../target/fuzz-corpus/$(TARGET) $(FUZZ_SEEDS_$(TARGET)) -- -max_total_time=$(SECONDS) -max_len=65536 -timeout=10

# The packages are installed while Rust compiles. They are those of the doctor's list that the
# release itself has. The doctor then installs QEMU from backports, and whatever failed here.
PACKAGES = $(shell cat harness/src/host/packages)
setup: linker
	@mkdir -p target; \
	if ! dpkg -s $(PACKAGES) >/dev/null 2>&1 && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	  { $(call install,,$(PACKAGES)) } >target/packages.log 2>&1 </dev/null & \
	fi; \
	echo '$(BUILD)'; $(BUILD) && { wait; $(HOTPLUG) doctor --install && $(if $(ARCH),$(HOTPLUG) doctor --install --arch '$(ARCH)',:); }

# Each target builds once, in the form that its next command needs. Tests enable further features of
# dependencies, and cargo gives them to all crates that use these dependencies. So after a plain
# build, a build for tests would compile a third of the dependencies and the harness again.
BUILD            = cargo build --release --locked
check: BUILD     = cargo test --workspace --release --locked --no-run
test: BUILD      = cargo test --workspace --release --locked --no-run
nightly: BUILD   = cargo test --workspace --release --locked --no-run
bench: BUILD     = cargo bench --locked --bench figures --no-run
fixtures: BUILD  = cargo test --release --locked --test provoke --no-run
build: linker
	$(BUILD)

# Installs packages ($2). Without apt, prints what to install ($1).
install = command -v apt-get >/dev/null || { echo "make: $(1)" >&2; exit 2; }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update && $$sudo apt-get install -y --no-install-recommends $(2);

# Installs what Rust needs and a fresh Debian may lack. Once the doctor is built, it installs the
# rest.
linker:
	@command -v cargo >/dev/null || { echo "make: no cargo: install a Rust toolchain first, see README.md" >&2; exit 2; }
	@command -v cc >/dev/null || { $(call install,no C compiler: install gcc and the C library's headers,gcc libc6-dev) }

# Installs what POWER needs before Rust is compiled: a compiler and a C library for the agent, and
# Rust's own library for it.
power: linker
	@command -v powerpc64le-linux-gnu-gcc >/dev/null && [ -e /usr/powerpc64le-linux-gnu/lib/libc.a ] || { \
	  $(call install,no compiler and C library for POWER: install them,gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross) }
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/powerpc64le-unknown-linux-gnu" ] || \
	  rustup target add powerpc64le-unknown-linux-gnu || \
	  echo "make: rustup cannot add powerpc64le-unknown-linux-gnu: see docs/power.md" >&2

# Installs what only the tests need: a browser for the page, a validator for XML schemas, and Python
# for the linters of documents.
tools: xmllint
	@command -v chromium >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || { \
	  $(call install,the tests need chromium and Python: install them,chromium fonts-dejavu-core python3-venv) }

xmllint:
	@command -v xmllint >/dev/null || { $(call install,the tests need xmllint: install it,libxml2-utils) }

# Installs a scheduler for the nightly tests.
slurm:
	@command -v slurmctld >/dev/null || { \
	  $(call install,the tests need Slurm: install it,slurmctld slurmd slurm-client munge) }

# Installs cargo-nextest without optimisation, which would take minutes, because it mostly waits for
# tests. The feature that updates it is left out.
nextest: linker
	@PATH="$(TOOLS)/bin:$$PATH" cargo nextest --version >/dev/null 2>&1 || \
	  cargo install --locked --debug --quiet --no-default-features --version 0.9.143 --root '$(TOOLS)' cargo-nextest
