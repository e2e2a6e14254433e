# Development happens in the checkout; `make setup` makes everything the tools want below .build/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BUILD := $(CURDIR)/.build
VENV := $(BUILD)/venv
PYTHON ?= python3
COLLECTIONS := $(BUILD)/collections
COLLECTION := $(COLLECTIONS)/ansible_collections/vllm_mindspore/hardening

export PATH := $(VENV)/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(COLLECTIONS)
export ANSIBLE_INJECT_FACT_VARS := false
export PYTHONPATH := $(COLLECTIONS)
# What the lab and the tests fetch or build once: roots, wheels, images.
export LAB_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vllm-hardening

# What `make test` makes after setup, in this order. tests/*/targets.mk add theirs, then the scenarios follow.
TEST_STEPS :=
# What is made beside them: what needs no lab, and scenarios whose time does not matter.
TEST_BESIDE := lint sanity units build
SCENARIOS_BESIDE := access company firewall remove
SCENARIOS := $(sort $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml)))
SCENARIO ?= $(SCENARIOS)
EXCEPTIONS := \# *(noqa|pylint: *disable|type: *ignore|shellcheck disable|yamllint disable)|skip_ansible_lint|pytest\.(mark\.)?(skip|xfail|importorskip)

.PHONY: help setup lint docs sanity units build molecule test bench changelog clean $(SCENARIOS:%=molecule-%)

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready $(COLLECTION) ## The development environment below .build/

# Debian keeps venv in a package of its own.
$(VENV)/.ready: tests/requirements.txt tests/constraints.txt
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt --constraint tests/constraints.txt
	touch $@

# A link, so that playbooks and tests see the checkout itself.
$(COLLECTION):
	mkdir -p $(dir $@)
	ln -sfn $(CURDIR) $@

lint: setup ## Style of YAML, roles, Python, shell and changelog; generated documentation is up to date; no exceptions anywhere
	yamllint --strict .
	ansible-lint -q
	ruff check --quiet .
	shellcheck $$(git grep --untracked -lIE '^#!(/bin/(ba)?sh|/usr/bin/env (ba)?sh)')
	antsibull-changelog lint
	for script in docs/generate/[!_]*.py; do python $$script --check; done
	! git grep --untracked -nE '$(EXCEPTIONS)' -- ':!Makefile' || { echo 'Mend the cause instead of silencing the tool.' >&2; exit 1; }

docs: setup ## Write what is generated: the tables of the roles' variables
	for script in docs/generate/[!_]*.py; do python $$script; done

sanity: setup ## ansible-test sanity, no exceptions
	python tests/tools/run_ansible_test.py $(BUILD) sanity

units: setup ## Unit tests; the nodes' code also with the oldest and newest Python of a node, where this machine has them
	python tests/tools/run_ansible_test.py $(BUILD) units

build: setup ## Build the tarball, install it elsewhere, and ask it for its documentation
	python tests/tools/build.py $(BUILD)/package

molecule: $(SCENARIO:%=molecule-%) ## The scenarios, or one: make molecule SCENARIO=default

$(SCENARIOS:%=molecule-%): molecule-%: setup
	MOLECULE_ANSIBLE_ARGS_STRICT_MODE=1 molecule test --no-command-borders --scenario-name $*

bench: setup ## Cost of runs without changes, as executions a node and as ratios
	for script in tests/bench/*.py; do python $$script; done

changelog: setup ## At a release only: fragments to changelogs/changelog.yaml and CHANGELOG.rst
	antsibull-changelog release

clean: ## Remove what was built; labs that are up stay up
	rm -rf $(VENV) $(COLLECTIONS) $(BUILD)/ansible-test $(BUILD)/package $(BUILD)/pythons

-include tests/*/targets.mk

test: ## Everything, from nothing
	@$(PYTHON) tests/tools/steps.py setup $(TEST_STEPS) $(patsubst %,molecule-%,$(filter-out $(SCENARIOS_BESIDE),$(SCENARIOS))) \
		--beside $(TEST_BESIDE) $(SCENARIOS_BESIDE:%=molecule-%)
