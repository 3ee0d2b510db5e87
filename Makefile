# What needs more than the Go tool's own commands. `make help` lists the targets.

CACHE := .cache
STACK := $(CACHE)/bin/stack
STATICCHECK := $(CACHE)/bin/staticcheck

# The race detector needs a C compiler on most systems; Go turns cgo off without one.
ifeq ($(shell go env CGO_ENABLED),1)
RACE := -race
endif

# No test hangs longer, on however slow a machine.
HANGS := 60m

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build dapr-bolt and the todo app into .cache/bin
	go build -o $(CACHE)/bin/ ./cmd/dapr-bolt ./cmd/todo

.PHONY: run
run: $(STACK) ## Run the todo app with real Dapr sidecars until Ctrl-C
	@$(STACK) run

.PHONY: run-cluster
run-cluster: $(STACK) ## Run it in two "Pods" over three etcd and three nats-servers, and see a leader of each killed
	@$(STACK) run-cluster

.PHONY: demo
demo: ## Play the story of the todo app against real sidecars and check every step
	go -C conformance test ./e2e -count=1 -v -run '^TestStory$$'

.PHONY: test
test: notice-installs lint test-unit test-allocs test-model test-conformance ## Run everything: lint, unit tests, official suites, end to end

.PHONY: test-unit
test-unit: notice-race
	@echo "== unit tests $(RACE)"
	go test $(RACE) -timeout $(HANGS) ./...

# What a call may allocate, which the race detector would change: the line above leaves these tests out where it has one.
.PHONY: test-allocs
test-allocs:
	@echo "== allocations per call"
	go test -count=1 -run '^TestAllocs$$' -v ./statestore/boltengine ./pubsub ./pubsub/boltengine ./internal/component

# Ten thousand histories of the broker against a model of what it promises: some
# minutes in memory, without the race detector, under which the line above runs a
# hundred. On a disk, most of the time would be spent in its syncs, of which no
# history can tell: none of them loses power. Go's tests have their files in
# GOTMPDIR, too, from where the go command must be able to start programs; where
# memory is, nothing may be started at times. So it is built first.
MODEL_DIR := $(firstword $(wildcard /dev/shm) /tmp)

.PHONY: test-model
test-model:
	@echo "== pub/sub models: 10000 histories each"
	go test -c -o $(CACHE)/bin/model.test ./pubsub
	cd pubsub && GOTMPDIR=$(MODEL_DIR) TMPDIR=$(MODEL_DIR) ../$(CACHE)/bin/model.test -test.timeout $(HANGS) -test.run '^TestModel' -rapid.checks=10000

# The sidecar is there first, with its progress shown, so that no test's time
# limit has to allow for it. Most tests wait for processes: four of a package run
# at a time, and two packages.
.PHONY: test-conformance
test-conformance: notice-race $(STACK)
	@echo "== the Dapr sidecar"
	$(STACK) sidecar
	@echo "== Dapr's placement and scheduler"
	$(STACK) control-plane
	@echo "== Dapr's official suites and the guarantees $(RACE)"
	go -C conformance test $(RACE) -p 2 -parallel 4 -v -timeout $(HANGS) ./suites ./e2e
	@echo "== power cuts"
	go -C conformance test -count=1 -v -timeout $(HANGS) ./crash -run '^TestPowerCuts'
	@echo "== all other conformance tests $(RACE)"
	go -C conformance test $(RACE) -p 2 -parallel 4 -skip '^TestPowerCuts' -timeout $(HANGS) $$(go -C conformance list ./... | grep -v -e /suites$$ -e /e2e$$)
	@$(if $(RACE),echo "== memory under a backlog",:)
	$(if $(RACE),go -C conformance test -count=1 -v -timeout $(HANGS) ./performance -run '^TestBacklog$$',@:)

# The version stands once, in the code that refuses older ones.
NATS_OLDEST = v$(shell sed -n 's/^const oldestServer = "\(.*\)"/\1/p' pubsub/natsbroker/server.go)
NATS_OLDEST_DIR = $(abspath $(CACHE))/nats-server-$(NATS_OLDEST)
ON_OLDEST_NATS = DAPR_BOLT_NATS_SERVER=$(NATS_OLDEST_DIR)/nats-server go -C conformance test $(RACE) -count=1 -parallel 4 -timeout $(HANGS)

.PHONY: test-oldest-nats
test-oldest-nats: ## Run the tests of clusters on the oldest nats-server that is taken, and upgrade it to the pinned one
	CGO_ENABLED=0 GOBIN=$(NATS_OLDEST_DIR) go install -ldflags "-s -w" github.com/nats-io/nats-server/v2@$(NATS_OLDEST)
	$(ON_OLDEST_NATS) ./cluster
	$(ON_OLDEST_NATS) ./suites -run '^TestPubSubOnNATS'
	$(ON_OLDEST_NATS) ./e2e -run '^TestStoryInTwoPods$$'

.PHONY: backlog
backlog: ## Measure memory, speed and disk under a backlog of 5 million events (some 10 minutes)
	go -C conformance test -count=1 -v -timeout 60m ./performance -run '^TestBacklog$$' -events=5000000

.PHONY: sweep
sweep: ## Measure what sweeping a million keys that end in the same minute costs others (some 5 minutes)
	go -C conformance test -count=1 -v -timeout 30m ./performance -run '^TestKeysThatEndTogetherAreSwept$$' -keys=1000000

.PHONY: console-cost
console-cost: ## Count what each page of the console reads of 5 million events and a million keys, and measure what an open one costs (some 5 minutes)
	go test -count=1 -v -timeout 60m ./internal/console -run '^TestPagesReadABoundedNumberOfRecords$$' -many-events=5000000 -many-keys=1000000 -many-letters=100000
	go -C conformance test -count=1 -v -timeout 30m ./performance -run '^TestAnOpenConsoleCostsLittle$$' -console-rounds=10

# The race detector would find little more here, and make it take three times as long.
.PHONY: torture
torture: ## Kill dapr-bolt 1,000 times in the middle of work, and look for leaks over 10,000 rounds
	go -C conformance test ./crash -run '^TestTorture$$' -count 1 -v -timeout 4h -kills 1000
	go -C conformance test ./faults -run '^TestRoundsLeaveNothing$$' -count 1 -v -timeout 4h -rounds 10000

.PHONY: torture-cluster
torture-cluster: ## Give clusters of etcd and NATS, with two and three dapr-bolts and their sidecars, 200 faults each in the middle of work
	go -C conformance test ./crash -run '^TestCluster' -count 1 -v -timeout 4h -faults 200

# The disk is in memory, and what is on it grows with each cut: ten times a new one.
.PHONY: power-cuts
power-cuts: ## Cut the power of dapr-bolt's disk 1,000 times in the middle of work and of recovery (as root, with FUSE)
	BOLTDB_POWER_RUNS=50 go test ./internal/boltdb -run '^TestPowerFailure$$' -count 1 -v -timeout 4h
	go -C conformance test ./crash -run '^TestPowerCuts' -count 10 -v -timeout 4h -cuts 100

# BASE names a commit whose build is measured beside this one. Redis's server is installed where that is possible; a report
# without it says so.
.PHONY: bench
bench: $(STACK) ## Measure dapr-bolt beside its peers and write RESULTS.md (an hour, 40 GB of disk); BASE=<commit> adds another build
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		echo "installing redis-server, which is measured" && apt-get install -y -qq --no-install-recommends redis-server >/dev/null; } || \
		echo "redis-server could not be installed: it is not measured"
	$(STACK) sidecar
	go -C conformance run ./cmd/bench $(if $(BASE),--base $(BASE))

.PHONY: bench-cluster
bench-cluster: ## Measure dapr-bolt on etcd and NATS beside Dapr's own components, and PostgreSQL and Redis if installed, into .cache/bench-cluster (3 minutes)
	go -C conformance run ./cmd/bench --parts cluster --report $(abspath $(CACHE))/bench-cluster

.PHONY: release
release: ## Build VERSION=v1.2.3 into dist/: archives for four platforms, checksums, SBOMs, a Homebrew formula, and the image
	deploy/release.sh $(VERSION)

.PHONY: test-dapr-run
test-dapr-run: $(STACK) ## Check `dapr run -f` and `dapr-bolt dev` with the real CLI, whose build takes minutes
	$(STACK) sidecar
	CGO_ENABLED=0 go -C conformance/daprcli build -ldflags "-s -w" -o ../../$(CACHE)/dapr-cli/dapr github.com/dapr/cli
	go -C conformance test -run '^(TestDaprRun|TestDev)' -v ./kubernetes ./e2e

.PHONY: screenshots
screenshots: ## Take pictures of every page of the console, light and dark, wide and narrow, into .cache/screenshots
	go -C conformance test ./console -count=1 -timeout $(HANGS) -run '^TestScreenshots$$' -args -screenshots $(abspath $(CACHE))/screenshots

.PHONY: notice-installs
notice-installs:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		echo "chromium is installed with apt-get, to test the console, as root on Debian; elsewhere, install it: those tests are left out without it"
	@echo "nothing else is installed on this machine: what the tests need is built or downloaded into $(CACHE) and Go's own caches,"
	@echo "which takes some minutes the first time: staticcheck, the pinned Dapr sidecar, placement, scheduler, Dapr's SDK for Python"

.PHONY: notice-race
notice-race:
	@$(if $(RACE),:,echo "no C compiler found: the tests run without the race detector")

.PHONY: lint
lint: $(STATICCHECK) ## Check format, go vet and staticcheck in both modules
	@echo "== gofmt"
	@unformatted=$$(gofmt -l .); \
		if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	@echo "== go vet"
	go vet ./...
	GOOS=darwin go vet ./...
	go -C conformance vet ./...
	@echo "== staticcheck"
	$(STATICCHECK) ./...
	cd conformance && ../$(STATICCHECK) ./...

.PHONY: clean
clean: ## Remove what was built; the todos in .run stay
	rm -rf $(CACHE)

# Go's own cache knows what changed: these are asked for each time.
.PHONY: FORCE
FORCE:

$(STACK): FORCE
	@mkdir -p $(@D)
	@test -e $@ || echo "building what starts all of it: a minute or two, the first time"
	@CGO_ENABLED=0 go -C conformance build -o ../$@ ./cmd/stack

# The version is the one that go.mod pins for `go tool staticcheck`; one binary
# serves both modules.
$(STATICCHECK): FORCE
	@mkdir -p $(@D)
	@go build -o $@ honnef.co/go/tools/cmd/staticcheck
