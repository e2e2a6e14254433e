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

.PHONY: help setup
help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready $(COLLECTION) ## The development environment below .build/

$(VENV)/.ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement tests/requirements.txt
	touch $@

# A link, so that playbooks and tests see the checkout itself.
$(COLLECTION):
	mkdir -p $(dir $@)
	ln -sfn $(CURDIR) $@
