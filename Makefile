# Everything that is done with this repository. Needs Go and make; `make help` lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
MAKEFLAGS     += --no-print-directory

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION   ?= $(shell git rev-parse HEAD 2>/dev/null)
IMAGE      ?= ghcr.io/kioo-dev/kioo:$(VERSION)
# What is tested, and for how long at most; more flags for go test.
PKG        ?= ./...
# Tests of whole nodes and fleets, which watch the clock: after the others and one at a time, so that nobody takes their CPU.
ALONE      := /(hack/(attack|clienttest|fleet|fleettest|loadtest|swarmbench)|pkg/(daemon|mirror|swarm/tracker))$$
TIMEOUT    ?= 10m
TESTFLAGS  ?=
# Flags for make simulate, for instance -full, or -nodes 500 -zones 3.
SIMULATE   ?=
# Flags for make bench, for instance -before /tmp/kioo-of-last-week, or -only peer.
BENCH      ?=
# How long each fuzz target runs.
FUZZTIME   ?= 10s

# Tools are pinned, and built from the module proxy when first needed, once per user: golangci-lint takes minutes. Tests that
# run helm read its version here. Renovate reads the comments.
# renovate: github.com/golangci/golangci-lint/v2
GOLANGCI_LINT ?= $(shell go run ./hack/tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0)
# renovate: github.com/norwoodj/helm-docs
HELM_DOCS     ?= $(shell go run ./hack/tool github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2)
# renovate: helm.sh/helm/v3
HELM          ?= $(shell go run ./hack/tool helm.sh/helm/v3/cmd/helm@v3.19.4)

LDFLAGS := -s -w -X main.version=$(VERSION)
# gRPC without its pages for a browser, whose templates make the linker keep every method of every type: 6 MB.
TAGS    := grpcnotrace
# What a release is for, beside the image's linux-amd64 and linux-arm64.
OTHERS  := darwin-amd64 darwin-arm64
# When the commit was made.
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/kioo for this machine
	@CGO_ENABLED=0 go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/kioo ./cmd/kioo

.PHONY: run
run: build ## Start a mirror with all defaults, its data in ./.kioo
	@exec bin/kioo serve --data-dir .kioo --guide

.PHONY: demo
demo: ## Pull one image on five nodes on this machine, and show where it came from (Linux, root)
	@go run ./hack/demo

.PHONY: test
test: ## Run all tests, with the race detector where there is a C compiler
	@hack/needs.sh
	@hack/tools.sh skopeo nginx ip=iproute2
	@race=$$(hack/race.sh); all=$$(go list $(PKG)); \
	rest=$$(grep -vE '$(ALONE)' <<<"$$all" || true); alone=$$(grep -E '$(ALONE)' <<<"$$all" || true); \
	if [ -n "$$rest" ]; then go test $$race -timeout $(TIMEOUT) $(TESTFLAGS) $$rest; fi; \
	if [ -n "$$alone" ]; then go test $$race -p 1 -timeout $(TIMEOUT) $(TESTFLAGS) $$alone; fi

.PHONY: bench
bench: ## Measure the mirror against nginx and against pulling directly; BENCH=-help tells more
	@hack/tools.sh nginx curl
	@go run ./hack/bench $(BENCH)

.PHONY: bench-swarm
bench-swarm: ## Measure N nodes that pull one image at once, against what their links allow (Linux, root; some 15 minutes)
	@go run ./hack/swarmbench

.PHONY: simulate
simulate: ## Let up to 1000 simulated nodes pull a blob, and compare with the limit; SIMULATE=-help tells more
	@go run ./hack/simulate $(SIMULATE)

.PHONY: attack
attack: ## Run what bad actors try, and once more against Kioos that each lack the one defence (Linux, root)
	@KIOO_ATTACK_CONTROLS=1 go test -count=1 -timeout 30m $(TESTFLAGS) ./hack/attack/...

.PHONY: lint
lint: check-generated ## Check format, the rules of .golangci.yaml, go.mod, the house rules, and what is generated
	@unformatted=$$(gofmt -l cmd hack pkg test); if [ -n "$$unformatted" ]; then echo "run gofmt -w on:" $$unformatted; exit 1; fi
	@$(GOLANGCI_LINT) run ./...
	@go mod tidy -diff
	@cd test/e2e && $(GOLANGCI_LINT) run ./... && go mod tidy -diff
	@go test ./hack/arch

.PHONY: check-generated
check-generated: ## Check that the chart's README and deploy/ are what make chart writes
	@copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; mkdir "$$copy/hack"; \
	cp -r Makefile charts deploy "$$copy"; cp hack/*.sh "$$copy/hack"; \
	$(MAKE) -C "$$copy" HELM='$(HELM)' HELM_DOCS='$(HELM_DOCS)' chart; \
	for part in charts deploy; do \
		diff -ru "$$part" "$$copy/$$part" || { echo "$$part/ is not what comes of the chart; run make chart" >&2; exit 1; }; \
	done

.PHONY: check
check: lint test ## What CI runs

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	@grep -rlE '^func Fuzz' --include='*_test.go' cmd hack pkg | sort | while read -r file; do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$$file"); do \
			echo "$$target in $${file%/*}"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "./$${file%/*}" </dev/null; \
		done; \
	done

# The binary of a release for bin/OS-ARCH. The same commit gives the same bytes.
bin/%/kioo: FORCE
	@platform=$*; CGO_ENABLED=0 GOOS=$${platform%-*} GOARCH=$${platform#*-} \
		go build -trimpath -tags '$(TAGS)' -buildvcs=auto -ldflags '$(LDFLAGS)' -o $@ ./cmd/kioo
FORCE:

.PHONY: image
image: bin/linux-amd64/kioo bin/linux-arm64/kioo ## Write the container image for amd64 and arm64 to bin/kioo-image.tar
	@go run ./hack/image -output bin/kioo-image.tar -name '$(IMAGE)' -version '$(VERSION)' -revision '$(REVISION)' \
		linux/amd64=bin/linux-amd64/kioo linux/arm64=bin/linux-arm64/kioo
	@echo "bin/kioo-image.tar holds $(IMAGE); load it with: ctr images import, docker load, or skopeo copy oci-archive:"

.PHONY: release
release: image $(OTHERS:%=bin/%/kioo) ## Write all that a release has to bin/release: binaries, SBOMs, image, chart, checksums
	@rm -rf bin/release
	@go run ./hack/release -output bin/release -version '$(VERSION)' -date '$(DATE)' -image bin/kioo-image.tar -helm $(HELM) \
		$(foreach platform,linux-amd64 linux-arm64 $(OTHERS),$(subst -,/,$(platform))=bin/$(platform)/kioo)

.PHONY: e2e
e2e: ## Install the chart into a kind cluster, and test it through pods (Linux, Docker)
	@cd test/e2e && go test -count=1 -timeout 30m $(TESTFLAGS) ./...

.PHONY: chart
chart: ## Write what comes of the chart: its README and deploy/
	@$(HELM_DOCS) --chart-search-root charts --log-level warning
	@hack/deploy.sh $(HELM) deploy
	@hack/chart-digest.sh

.PHONY: chart-digest
chart-digest: ## Name the image in the chart by DIGEST, for a release; empty goes back to the tag
	@hack/chart-digest.sh '$(DIGEST)'
	@$(MAKE) chart

.PHONY: clean
clean: ## Remove what was built, and the data of make run
	@rm -rf bin .kioo
