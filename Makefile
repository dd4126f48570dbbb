# Everything that a person or CI does to this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL    := go tool -modfile=tools/go.mod
FUZZTIME ?= 10s

# The agent links libpg_query (C), statically on Linux; everything else is pure Go.
ifeq ($(shell go env GOOS),linux)
AGENT_FLAGS := -tags netgo,osusergo -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"'
else
AGENT_FLAGS := -ldflags '$(LDFLAGS)'
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: deps build ## play the whole story on a real PostgreSQL, and leave nothing behind
	@bin/demo

.PHONY: dev
dev: deps build ## the same system, staying up: prints what to try
	@bin/demo --stay

.PHONY: test
test: deps-test build ## the whole test suite; installs the servers that it needs
	go test -count=1 -timeout 20m ./...

.PHONY: check
check: deps-test fmt vet lint cover vuln check-infra test-copies ## what must hold before a change lands, tests apart

.PHONY: build
build: ## bin/sallyport, bin/sallyport-agent, bin/sallyport-relay, bin/demo
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/sallyport ./cmd/sallyport-relay ./localstack/demo
	@echo "building the agent (the first time compiles a C library: about two minutes)"
	CGO_ENABLED=1 go build -trimpath -buildvcs=false $(AGENT_FLAGS) -o bin/ ./cmd/sallyport-agent

# Both programs for both processors, whatever this machine is: the agent's C library takes a compiler for the other one.
.PHONY: images
images: ## OCI image layouts of relay and agent in dist/images, for arm64 and amd64, without a container engine; prints their digests
	@infra/images/compilers.sh $$(go env GOARCH | sed 's/^amd64$$/x/; s/^arm64$$/amd64/; s/^x$$/arm64/')
	@mkdir -p dist/images/bin
	@for arch in amd64 arm64; do \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o dist/images/bin/sallyport-relay-$$arch ./cmd/sallyport-relay; \
	  case $$arch in $$(go env GOARCH)) cc=$$(go env CC);; arm64) cc=aarch64-linux-gnu-gcc;; amd64) cc=x86_64-linux-gnu-gcc;; esac; \
	  echo "building the agent for $$arch (the first time compiles a C library: about two minutes)"; \
	  CC=$$cc CGO_ENABLED=1 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -tags netgo,osusergo -ldflags '$(LDFLAGS) -linkmode external -extldflags "-static"' \
	    -o dist/images/bin/sallyport-agent-$$arch ./cmd/sallyport-agent; done
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -o dist/images/bin/images ./infra/images
	@for name in relay agent; do \
	  dist/images/bin/images build --name sallyport-$$name --version $(VERSION) --out dist/images/$$name \
	    amd64=dist/images/bin/sallyport-$$name-amd64 arm64=dist/images/bin/sallyport-$$name-arm64; \
	  if [ $$(id -u) -eq 0 ]; then dist/images/bin/images verify --name sallyport-$$name dist/images/$$name; \
	  else echo "WARNING: not root: that sallyport-$$name runs in its image was NOT verified"; fi; done

.PHONY: reproducible
reproducible: ## build what is committed twice, in two directories, and compare
	@infra/reproducible.sh

# What Lambda takes is the zip: deflate, as gzip does it. Over ten million bytes a cold start shows it.
.PHONY: build-lambda
build-lambda: ## the functions as Lambda binaries, arm64 and amd64, without cgo; each under 10 MB zipped
	@for arch in arm64 amd64; do for f in functions/*/lambda; do \
	  out=dist/$$arch/$$(basename $$(dirname $$f)); mkdir -p $$out; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w' -o $$out/bootstrap ./$$f; \
	  zipped=$$(gzip -9c $$out/bootstrap | wc -c); \
	  echo "$$out/bootstrap $$(wc -c <$$out/bootstrap) bytes, $$zipped zipped"; \
	  test $$zipped -lt 10000000 || { echo "$$out: over 10 MB zipped"; exit 1; }; done; done

# One package at a time: each starts servers of its own. Where it can be had, in a network with nothing but loopback.
AWS_TESTS := $(shell grep -rlE '^//go:build aws$$' --include='*_test.go' internal functions localstack 2>/dev/null | xargs -r -n1 dirname | sort -u | sed 's|^|./|')
.PHONY: test-aws
test-aws: prepare-aws test-stores test-deploy ## all that runs on a local AWS: the stores, the operating of a stack, the story on MiniStack and LocalStack

.PHONY: prepare-aws
prepare-aws: ## prepare the local AWS's in build/ (Java, Maven, Python, npm: by apt where that is possible)
	@localstack/scripts/prerequisites.sh aws
	@localstack/scripts/aws-tools.sh && localstack/scripts/local-aws.sh
	@localstack/scripts/localstack.sh || [ $$? -eq 3 ]

.PHONY: test-stores
test-stores: deps build prepare-aws dist-here ## what has the build tag aws: stores on DynamoDB Local and MiniStack, both twins, a stack's faults
	go vet -tags aws $(AWS_TESTS)
	localstack/scripts/isolated.sh go test -tags aws -count=1 -p 1 -timeout 20m $(AWS_TESTS)

# The template's CodeUri is dist/functions: what was built for the one processor that is deployed to. ARCH=amd64 for x86_64.
ARCH ?= arm64
.PHONY: dist
dist: ## the functions as `make deploy` uploads them, for ARCH (arm64)
	@for f in functions/*/lambda; do out=dist/functions/$$(basename $$(dirname $$f)); mkdir -p $$out; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags '-s -w' -o $$out/bootstrap ./$$f; done; \
	ls -l dist/functions/*/bootstrap | awk '{print $$NF, $$5, "bytes"}'

.PHONY: dist-here
dist-here:
	@$(MAKE) --no-print-directory dist ARCH=$$(go env GOARCH)

AWS_BIN := build/aws-tools/bin
ENV ?= dev
.PHONY: check-infra
check-infra: ## cfn-lint, sam validate, and the tests that read the templates (installs pinned tools into build/)
	@localstack/scripts/aws-tools.sh
	$(AWS_BIN)/cfn-lint infra/*.yaml
	SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 $(AWS_BIN)/sam validate --lint -t infra/template.yaml
	@mkdir -p build && $(AWS_BIN)/python localstack/scripts/translate.py infra/template.yaml build/translated.json
	go test -count=1 -tags translated ./infra

.PHONY: test-copies
test-copies: deps build ## a whole story, and Athena's queries over its copies by DuckDB (installed into build/): what they answer is what the log says
	@localstack/scripts/duckdb.sh
	go test -count=1 -tags duckdb -run TestDuckDB ./localstack/story

.PHONY: deploy
deploy: ## sam deploy of samconfig.toml's ENV (dev, prod); the AWS account is the shell's. Wrong parameters are refused before anything is built
	@localstack/scripts/aws-tools.sh
	@$(AWS_BIN)/python localstack/scripts/parameters.py samconfig.toml $(ENV) | go run ./infra/preflight -
	@$(MAKE) --no-print-directory dist ARCH=$(ARCH)
	$(AWS_BIN)/sam deploy -t infra/template.yaml --config-file $(CURDIR)/samconfig.toml --config-env $(ENV)

.PHONY: destroy
destroy: ## delete the stack of ENV; tables, buckets and keys are kept
	@localstack/scripts/aws-tools.sh
	$(AWS_BIN)/sam delete --config-file $(CURDIR)/samconfig.toml --config-env $(ENV)
	@echo "Kept, by DeletionPolicy: the four tables, the three buckets and the four keys. Deleting them is by hand, and for good."

# A local AWS runs functions as processes of this machine.
LOCAL := ministack
.PHONY: deploy-local
deploy-local: build ## the template on a local AWS, and the whole story on it (LOCAL=ministack or localstack)
	@localstack/scripts/aws-tools.sh && localstack/scripts/local-aws.sh
	@if [ $(LOCAL) = localstack ]; then localstack/scripts/localstack.sh; fi
	@$(MAKE) --no-print-directory dist ARCH=$$(go env GOARCH)
	@bin/demo --aws $(LOCAL)

.PHONY: dev-local
dev-local: build ## the same stack, staying up: prints what to try (LOCAL=ministack or localstack)
	@localstack/scripts/aws-tools.sh && localstack/scripts/local-aws.sh
	@if [ $(LOCAL) = localstack ]; then localstack/scripts/localstack.sh; fi
	@$(MAKE) --no-print-directory dist ARCH=$$(go env GOARCH)
	@bin/demo --aws $(LOCAL) --stay

.PHONY: test-deploy
test-deploy: deps build prepare-aws dist-here ## the story on both local AWS's, as tests; says loudly where LocalStack cannot be had
	localstack/scripts/isolated.sh go test -count=1 -tags deploy -timeout 15m -run TestStoryOnMiniStack ./localstack/story
	@code=0; localstack/scripts/localstack.sh || code=$$?; if [ $$code -eq 3 ]; then \
	  for i in 1 2 3; do echo "WARNING: LocalStack cannot be had here, as said above: the story was NOT played on it, only on MiniStack"; done; exit 0; fi; \
	[ $$code -eq 0 ] || exit $$code; \
	localstack/scripts/isolated.sh go test -count=1 -tags deploy -timeout 15m -run TestStoryOnLocalStack ./localstack/story

.PHONY: fmt
fmt: ## fail where gofmt would change something
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint, pinned in tools/go.mod
	$(TOOL) golangci-lint run ./...

.PHONY: vuln
vuln: ## govulncheck, pinned in tools/go.mod; says so where its database cannot be reached
	@out=$$($(TOOL) govulncheck ./... 2>&1) && { echo "$$out" | tail -1; exit 0; } || code=$$?; \
	if [ $$code -ne 3 ] && grep -qE 'vuln.go.dev|dial tcp|no such host|Forbidden' <<<"$$out"; then \
	  echo "WARNING: govulncheck could not reach its database: vulnerabilities were NOT checked"; exit 0; fi; \
	echo "$$out"; exit $$code

# Deciding is pure: every line of it is run by a test.
COVERED := ./internal/policy ./internal/approval ./agent/gate
.PHONY: cover
cover: ## policy, approval and gate are covered to 100 %
	@for p in $(COVERED); do go test -count=1 -cover $$p | tee /dev/stderr | grep -q 'coverage: 100.0%' || { echo "$$p: not 100 %"; exit 1; }; done

.PHONY: fuzz
fuzz: deps-test ## every fuzz target for FUZZTIME (10s)
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$p/*_test.go | sed 's/func //' | sort -u); do \
	    echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p | tail -1; done; done

.PHONY: oracle
oracle: deps-test ## what facts say of 63,000 statements against what the server does (SERVER=17): about twenty minutes; see docs/reference/facts-oracle.md
	localstack/scripts/postgres.sh $(or $(SERVER),17)
	ORACLE=all ORACLE_SERVER=$(or $(SERVER),17) go test -count=1 -timeout 100m -parallel 3 -run 'TestOracle' -v ./agent/protocol/postgres

SERVERS ?= 15,18
.PHONY: test-compat
test-compat: deps-test ## PostgreSQL clients' own suites, direct and through the room, test by test (SUITES=pgx,pq SERVERS=18: some of them; PGBOUNCER=path: beside it); installs them, pinned, into build/compat
	@mkdir -p bin && CGO_ENABLED=1 go build -trimpath -o bin/pgcompat ./localstack/pgcompat
	bin/pgcompat -versions $(SERVERS) $(if $(SUITES),-suites $(SUITES)) $(if $(PGBOUNCER),-pgbouncer $(PGBOUNCER))

.PHONY: test-compat-ssh
test-compat-ssh: deps-test ## ansible, paramiko, asyncssh and ssh2 through the SSH room to a real server (installs them, pinned, into build/)
	@localstack/scripts/ssh-clients.sh
	go test -tags compat -count=1 -timeout 15m -v -run 'TestClients|TestAnsible' ./agent/protocol/ssh

.PHONY: bench-ssh
bench-ssh: deps-test ## the SSH tables of docs/BENCHMARKS.md (TABLE=TestTableWork: one of them), beside OpenSSH direct, ProxyJump and a bare proxy
	@mkdir -p bin/bench
	@go test -tags bench -c -o bin/bench/ssh.test ./agent/protocol/ssh # go test itself shows nothing of what passes
	@cd agent/protocol/ssh && ../../../bin/bench/ssh.test -test.timeout 30m -test.run '$(or $(TABLE),^TestTable)'

.PHONY: corpus
corpus: deps-test build ## tricks against PostgreSQL proxies, in every form: the room, its masks alone, the whole system, and PgBouncer to compare where it is installed; see docs/reference/bypass-corpus.md
	CGO_ENABLED=1 go build -trimpath -o bin/pgcorpus ./localstack/pgcorpus
	bin/pgcorpus
	bin/pgcorpus --open
	bin/pgcorpus --quick --bin bin
	@command -v pgbouncer >/dev/null && { bin/pgcorpus --quick --proxy localstack/pgcorpus/subjects/pgbouncer.sh | grep -v ^HOLE || true; } || echo "PgBouncer is not installed: not compared"

# TABLE=postgres runs the tables of PostgreSQL, TABLE=ssh those of SSH, TABLE=parts the parts by themselves; and one table of PostgreSQL by its
# name: one-client, many-clients, pipelines, rows, connect or memory. Nothing runs all of them.
POSTGRES_TABLES := one-client many-clients pipelines rows connect memory
.PHONY: bench
bench: deps build ## every figure of docs/BENCHMARKS.md but AWS's, in one run of about 15 minutes; TABLE=postgres (8 minutes), ssh, parts or one table: that alone
	@mkdir -p bin/bench
	@case "$(TABLE)" in ssh|parts) ;; *) localstack/scripts/prerequisites.sh bench || echo "PgBouncer cannot be had: its lane is missing" >&2 ;; esac
	@case "$(TABLE)" in ""|postgres|ssh|parts) ;; *) echo "$(POSTGRES_TABLES)" | tr ' ' '\n' | grep -qx -- "$(TABLE)" || { echo "no table $(TABLE)" >&2; exit 1; } ;; esac
	@case "$(TABLE)" in ssh|parts) ;; *) \
	  CGO_ENABLED=1 go build -trimpath $(AGENT_FLAGS) -o bin/bench/ ./localstack/story/benchagent && \
	  bin/demo --bench $(filter $(POSTGRES_TABLES),$(TABLE)) ;; esac
	@case "$(TABLE)" in ""|ssh) $(MAKE) --no-print-directory bench-ssh TABLE= ;; esac
	@case "$(TABLE)" in ""|parts) go test -run '^$$' -bench . -benchtime 1s -count 1 ./internal/... ./agent/... ./functions/... ./tunnel/... ;; esac

# ENDPOINT=aws: the account of the environment's credentials (AWS_ACCESS_KEY_ID ...), which must be able to make tables, a bucket, keys, a role and a
# function; costs cents. A URL: a local AWS. Nothing: this machine alone, on the twins and on DynamoDB Local.
ENDPOINT ?=
.PHONY: bench-aws
bench-aws: ## what decide takes as a Lambda function: here, or with ENDPOINT=aws in an account, where it cleans up after itself
	@[ -n "$(ENDPOINT)" ] || localstack/scripts/local-aws.sh
	go run ./localstack/benchaws -endpoint "$(ENDPOINT)"

.PHONY: deps
deps: ## a C compiler, PostgreSQL and psql: by apt where that is possible, else says what to install
	@localstack/scripts/prerequisites.sh demo

.PHONY: deps-test
deps-test: ## the same, and what the tests need beside (Chromium)
	@localstack/scripts/prerequisites.sh test
	@localstack/scripts/postgres.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin build dist
