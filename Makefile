# Sluice. `make help` lists the targets; CI calls nothing but these.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO      ?= go
BIN     := $(CURDIR)/bin
TOOLS   := $(CURDIR)/.tools
MODULES := gen libs services/ingestor services/dedup services/join services/sink services/control cmd/sluice e2e bench
# Every module's packages, from the workspace.
ALL     := $(MODULES:%=./%/...)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X sluice/libs/service.version=$(VERSION)

PROTOC_GEN_GO      := v1.36.12
PROTOC_GEN_GO_GRPC := v1.6.2
BUF                := v1.75.0
PROTOVALIDATE      := v1.2.2
GRPCURL            := v1.9.4
GOLANGCI_LINT      := v2.15.0

# What `make breaking` compares with.
BASE ?= HEAD~1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build sluice, ingestor, dedup, sink and control into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/sluice ./services/ingestor/cmd/ingestor \
		./services/dedup/cmd/dedup ./services/join/cmd/join ./services/sink/cmd/sink ./services/control/cmd/control

.PHONY: demo
demo: build ## Run the main job on embedded parts and prove the result
	$(BIN)/sluice demo

.PHONY: demo-join
demo-join: build ## Join two topics on embedded parts and prove the result
	$(BIN)/sluice demo join

.PHONY: parts
parts: ## Install the real parts that the tests use, as far as this machine allows
	@tools/install-parts

.PHONY: test
test: parts build ## Run all tests
	$(GO) test -timeout 60m $(ALL)

.PHONY: test-race
test-race: parts build ## Run the tests of libs and services with the race detector
	$(GO) test -race -timeout 60m ./libs/... ./services/ingestor/... ./services/dedup/... ./services/join/... ./services/sink/... ./services/control/...

.PHONY: e2e
e2e: parts build ## Run the end-to-end tests: processes, real Kafka, both ClickHouse engines
	$(GO) test -count=1 -timeout 60m -v ./e2e/...

FAULTS ?= 60
SEED   ?= 0
# What is under test: dedup or join.
PIPELINE ?= dedup
# Of a join: INTERVAL or LOOKUP, LEFT or INNER, true or false (dedup on the right side, too); drawn from the seed where not given.
KIND ?=
TYPE ?=
BOTH ?=
.PHONY: e2e-chaos
e2e-chaos: parts build ## Kill, stop and cut everything while events flow; FAULTS=1000 SEED=7 for the long form, PIPELINE=join
	$(GO) run ./e2e/chaos -pipeline $(PIPELINE) -kind "$(KIND)" -type "$(TYPE)" -both "$(BOTH)" -faults $(FAULTS) -seed $(SEED)

.PHONY: e2e-compose
e2e-compose: parts ## Run compose.yaml on a Docker engine of the test's own: scale, kill, compare the rows
	@tools/compose/install
	SLUICE_COMPOSE=1 $(GO) test -count=1 -timeout 60m -v -run TestStack ./e2e/compose

.PHONY: deploy-check
deploy-check: ## Check compose.yaml as Compose reads it, and the Nomad jobs as Nomad does
	$(GO) test -count=1 -run 'TestConfig|TestUsers|TestObserve' ./e2e/compose
	cd tools/nomad && GOWORK=off $(GO) test -count=1 ./...

.PHONY: bench
bench: parts build ## Measure events/s end to end and CPU per event, against the budgets
	$(GO) run ./bench
	$(GO) run ./bench -join
	$(GO) test -run '^$$' -bench Join -benchtime 100x ./services/join

.PHONY: bench-scaling
bench-scaling: parts build ## Measure 1, 2 and 4 lanes, and one and two instances of each stage
	$(GO) run ./bench -scaling -only 200B -events 400000

.PHONY: bench-latency
bench-latency: parts build ## Measure Kafka to a visible row at 1,000 and 10,000 events/s
	$(GO) run ./bench -latency 1000,10000

.PHONY: generate
generate: tools ## Generate gen/ from proto/
	PATH="$(TOOLS):$$PATH" $(TOOLS)/buf generate

.PHONY: lint
lint: tools $(TOOLS)/golangci-lint ## buf lint, go vet, golangci-lint
	$(TOOLS)/buf lint
	$(GO) vet $(ALL)
	$(TOOLS)/golangci-lint run --allow-parallel-runners $(ALL)

.PHONY: breaking
breaking: tools ## Check that proto/ breaks no one who uses the commit before (BASE)
	@base=$$(mktemp -d); trap 'rm -rf "$$base"' EXIT; \
		git archive $(BASE) buf.yaml proto | tar -x -C "$$base" && mkdir -p "$$base/.tools" && cp -r $(TOOLS)/proto "$$base/.tools/" && \
		$(TOOLS)/buf breaking --against "$$base"

.PHONY: verify
verify: tools ## Check that generated code, go.mod files and formatting are current, and that each module builds alone
	@test -z "$$(gofmt -l $(MODULES))" || { echo "gofmt: $$(gofmt -l $(MODULES))"; exit 1; }
	@cp -r gen $(TOOLS)/gen.before && PATH="$(TOOLS):$$PATH" $(TOOLS)/buf generate; \
		diff -r -x go.mod -x go.sum $(TOOLS)/gen.before/sluice gen/sluice; code=$$?; rm -rf $(TOOLS)/gen.before; exit $$code
	@for m in $(MODULES); do echo "module $$m"; (cd $$m && GOWORK=off $(GO) mod tidy -diff && GOWORK=off $(GO) build -o /dev/null ./...) || exit 1; done

.PHONY: tools
tools: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(TOOLS)/proto/buf/validate/validate.proto ## Install the pinned tools

$(TOOLS)/buf:
	GOWORK=off GOBIN=$(TOOLS) $(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF)
$(TOOLS)/protoc-gen-go:
	GOWORK=off GOBIN=$(TOOLS) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO)
$(TOOLS)/protoc-gen-go-grpc:
	GOWORK=off GOBIN=$(TOOLS) $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC)
$(TOOLS)/grpcurl:
	GOWORK=off GOBIN=$(TOOLS) $(GO) install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL)
$(TOOLS)/golangci-lint:
	GOWORK=off GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
$(TOOLS)/proto/buf/validate/validate.proto:
	@mkdir -p $(@D)
	@dir=$$(cd $(TOOLS) && GOWORK=off GOFLAGS=-mod=mod $(GO) mod download -json github.com/bufbuild/protovalidate@$(PROTOVALIDATE) | sed -n 's/.*"Dir": "\(.*\)",/\1/p'); \
		install -m 644 "$$dir/proto/protovalidate/buf/validate/validate.proto" $@

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN) $(TOOLS)
