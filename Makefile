# Two targets that a newcomer needs:
#
#   make compare   what does a patch do to memory and CPU hotplug?
#                  PATCH=file-or-folder  SOURCE=package-tarball-folder-or-repo@rev  SCENARIO=file  ARGS=more options
#   make test      what a change must hold, against real kernels and real QEMU. ONLY=words runs the tests whose names have them
#
# make check runs the tests that need neither, in a minute; make nightly runs everything, in hours (docs/testing.md). And there
# are four for those who work on it: make bench [ONLY=name] for the figures; make fixtures [SOURCE=...] for the logs of
# kernels that misbehave; make fuzz [TARGET=lock_order] [SECONDS=600] for bytes that no kernel printed; make reference for
# results/reference, the run that the README shows. All set up what they need; everything else is the binary.

PATCH    ?= guest-images/patches/seed/0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch
SCENARIO ?= scenarios/dimm-and-cpu.toml
SOURCE   ?=
ARGS     ?=

HOTPLUG = target/release/hotplug

.PHONY: compare check test nightly kernels bench fixtures reference fuzz setup build linker tools nextest xmllint slurm

# The binary's status is the verdict; here only a comparison that did not work is a failure.
compare: setup
	@status=0; \
	$(HOTPLUG) compare $(if $(SOURCE),--source '$(SOURCE)') --scenario '$(SCENARIO)' $(ARGS) $(if $(PATCH),'$(PATCH)') || status=$$?; \
	case $$status in 0|1|3) exit 0 ;; *) exit $$status ;; esac

# All tests run under cargo-nextest: .config/nextest.toml says which are in a tier, and how long each may take.
ONLY   ?=
TOOLS   = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hotplug-ci
NEXTEST = PATH="$(TOOLS)/bin:$$PATH" cargo nextest run --workspace --release --locked

check: nextest xmllint build
	cargo fmt --all --check
	$(NEXTEST) --profile check $(ONLY)

test: setup tools nextest kernels
	$(NEXTEST) $(ONLY)

nightly: setup tools slurm nextest kernels
	PATH="$(TOOLS)/bin:$$PATH" .ci/nightly

# What most tests boot, both cores to each build. What single tests add to it is built by them, on the same objects.
kernels: setup
	$(HOTPLUG) kernel build guest-images/patches/seed
	$(HOTPLUG) kernel build --config guest-images/configs/provoke.config guest-images/patches/provoke

bench: setup
	cargo bench --locked --bench figures -- $(ONLY)

fixtures: setup
	HOTPLUG_WRITE_FIXTURES=1 $(if $(SOURCE),HOTPLUG_FIXTURE_SOURCE='$(SOURCE)') cargo test --release --locked --test provoke

# The patch the project began with, as make compare judges it. Kept are the results, the page with a picture of it, the mail,
# the first two trials of either side, and the begin of one's kernel log.
REFERENCE = results/reference
reference: setup tools
	rm -rf target/reference
	$(HOTPLUG) compare --scenario scenarios/dimm-and-cpu.toml --seed 1 --results target/reference '$(PATCH)' || [ $$? = 1 ]
	rm -rf $(REFERENCE) && mkdir -p $(REFERENCE)/trials
	cd target/reference/2*/ && cp -r run.json result.json report.html scenario.toml patches '$(CURDIR)/$(REFERENCE)'
	for trial in before-000 before-001 after-000 after-001; do \
	  mkdir $(REFERENCE)/trials/$$trial && cp target/reference/2*/trials/$$trial/trial.json $(REFERENCE)/trials/$$trial; done
	head -n 200 target/reference/2*/trials/after-000/kmsg.log > $(REFERENCE)/trials/after-000/kmsg.log
	$(HOTPLUG) report target/reference/2* > $(REFERENCE)/screen.txt
	$(HOTPLUG) report target/reference/2* --mail > $(REFERENCE)/mail.txt
	$(HOTPLUG) report target/reference/2* --junit > $(REFERENCE)/junit.xml
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1500 \
	  --user-data-dir='$(CURDIR)/target/chromium' --screenshot='$(CURDIR)/$(REFERENCE)/page.png' 'file://$(CURDIR)/$(REFERENCE)/report.html' 2>target/chromium.log

# cargo-fuzz wants a nightly for its sanitizers; the code under test has no unsafe, so they would find nothing.
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

# Packages come while Rust compiles: those of the doctor's list that the release itself has. QEMU from backports, and whatever
# went wrong here, is the doctor's business afterwards.
PACKAGES = $(shell cat harness/src/host/packages)
setup: linker
	@mkdir -p target; \
	if ! dpkg -s $(PACKAGES) >/dev/null 2>&1 && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	  { $(call install,,$(PACKAGES)) } >target/packages.log 2>&1 </dev/null & \
	fi; \
	echo '$(BUILD)'; $(BUILD) && { wait; $(HOTPLUG) doctor --install; }

# Built once, as what is run next wants it: what tests add to the features of dependencies cargo gives to all who use them,
# and after a plain build it would compile a third of them, and the harness, anew.
BUILD            = cargo build --release --locked
check: BUILD     = cargo test --workspace --release --locked --no-run
test: BUILD      = cargo test --workspace --release --locked --no-run
nightly: BUILD   = cargo test --workspace --release --locked --no-run
bench: BUILD     = cargo bench --locked --bench figures --no-run
fixtures: BUILD  = cargo test --release --locked --test provoke --no-run
build: linker
	$(BUILD)

# Installs packages ($2), or says what is to be done where there is no apt ($1).
install = command -v apt-get >/dev/null || { echo "make: $(1)" >&2; exit 2; }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update && $$sudo apt-get install -y --no-install-recommends $(2);

# All that Rust needs and a fresh Debian may lack. The rest is the doctor's business, once it is built.
linker:
	@command -v cargo >/dev/null || { echo "make: no cargo: install a Rust toolchain first, see README.md" >&2; exit 2; }
	@command -v cc >/dev/null || { $(call install,no C compiler: install gcc and the C library's headers,gcc libc6-dev) }

# What only tests want: a browser for the page, a reader of XML schemas, and Python for linters of documents.
tools: xmllint
	@command -v chromium >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || { \
	  $(call install,the tests want chromium and Python: install them,chromium fonts-dejavu-core python3-venv) }

xmllint:
	@command -v xmllint >/dev/null || { $(call install,the tests want xmllint: install it,libxml2-utils) }

# A scheduler, for the tests of the night.
slurm:
	@command -v slurmctld >/dev/null || { \
	  $(call install,the tests want Slurm: install it,slurmctld slurmd slurm-client munge) }

# Unoptimised: it waits for tests, and would take minutes to optimise. It is compiled without what updates it.
nextest: linker
	@PATH="$(TOOLS)/bin:$$PATH" cargo nextest --version >/dev/null 2>&1 || \
	  cargo install --locked --debug --quiet --no-default-features --version 0.9.143 --root '$(TOOLS)' cargo-nextest
