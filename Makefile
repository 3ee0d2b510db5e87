# What needs more than the Go tool's own commands. `make help` lists the targets.

CACHE := .cache
STACK := $(CACHE)/bin/stack
STATICCHECK := $(CACHE)/bin/staticcheck

# The race detector needs a C compiler on most systems; Go turns cgo off without one.
ifeq ($(shell go env CGO_ENABLED),1)
RACE := -race
endif

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

.PHONY: demo
demo: $(STACK) ## Play the story of the todo app against real sidecars and check every step
	@$(STACK) demo

.PHONY: test
test: lint test-unit test-conformance ## Run everything: lint, unit tests, official suites, end to end

.PHONY: test-unit
test-unit: notice-race
	@echo "== unit tests $(RACE)"
	go test $(RACE) -timeout 20m ./...

# The sidecar is built first, with its progress shown, so that no test's time
# limit has to allow for it. Packages run one at a time: each starts processes.
.PHONY: test-conformance
test-conformance: notice-race $(STACK)
	@echo "== the Dapr sidecar"
	$(STACK) sidecar
	@echo "== conformance tests $(RACE)"
	go -C conformance test $(RACE) -p 1 -timeout 40m ./...

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
	@go -C conformance build -o ../$@ ./cmd/stack

# The version is the one that go.mod pins for `go tool staticcheck`; one binary
# serves both modules.
$(STATICCHECK): FORCE
	@mkdir -p $(@D)
	@go build -o $@ honnef.co/go/tools/cmd/staticcheck
