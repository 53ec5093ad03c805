# SPDX-License-Identifier: GPL-3.0-or-later
# Two commands on a fresh machine: `make lab` and `make test`. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

LAB ?= lab
RELEASE ?=
FORMAT ?= table
ONLY ?=
VERBOSE ?=
FUZZ_SECONDS ?= 60

# Containers, their network and the TPMs belong to root, and so does what is made on the way, build/ included.
as_root := $(if $(filter 0,$(shell id -u)),,sudo -E $(if $(filter true,$(CI)),-n))
run := $(as_root) tools/run
playbook := $(run) ansible-playbook $(VERBOSE)
inventory := build/labs/$(LAB)/inventory
status := $(run) python tools/lab_status.py --lab '$(LAB)'

# A lab's name is part of the names of containers, folders and networks.
ifneq ($(shell grep -cE '^[a-z][a-z0-9-]*$$' <<<'$(LAB)'),1)
$(error LAB must be a lower-case word of letters, digits and '-', and begin with a letter)
endif

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile
	@echo "Variables: LAB=name (default lab), RELEASE=trixie (of a new lab's hosts), FORMAT=json, ONLY=gate,gate, FUZZ_SECONDS=60, VERBOSE=-v"

.PHONY: lab
lab: bootstrap-lab ## Make a lab of real hosts and converge it to trusted (again: no change)
	@$(playbook) trusted.infrastructure.lab_up -e 'lab_name=$(LAB)' $(if $(RELEASE),-e 'lab_release=$(RELEASE)')
	@$(playbook) -i '$(inventory)' trusted.infrastructure.lab
	@$(status) --wait 60
	@echo
	@echo 'The lab is trusted. What to try next:'
	@echo "  make lab-status FORMAT=json LAB=$(LAB)     the same, for machines"
	@echo "  tools/run ansible-playbook -i $(inventory) trusted.infrastructure.attest    attest again, as a pipeline would"
	@echo "  tools/run ansible-playbook -i $(inventory) trusted.infrastructure.drift     what differs from the desired state"
	@echo "  make lab LAB=other                      a second lab beside this one"
	@echo "  make lab-destroy LAB=$(LAB)                remove it"

.PHONY: lab-status
lab-status: bootstrap-lab ## Print each host's state; FORMAT=json for machines
	@$(status) --format '$(FORMAT)'

.PHONY: lab-destroy
lab-destroy: bootstrap-lab ## Remove everything that the lab made
	@$(playbook) trusted.infrastructure.lab_destroy -e 'lab_name=$(LAB)'

.PHONY: test
test: bootstrap ## Run every gate and test, the scenarios on a lab of their own
	@$(run) python tools/gates.py $(if $(ONLY),--only $(ONLY))

.PHONY: fuzz
fuzz: bootstrap ## Fuzz what reads foreign bytes; FUZZ_SECONDS for each target (default 60)
	@$(run) env FUZZ_SECONDS='$(FUZZ_SECONDS)' pytest --color=no -o faulthandler_timeout=0 tests/fuzz

.PHONY: bench
bench: bootstrap ## Measure attestation and key releases: a table, build/bench.json and plots; nothing else should run
	@$(run) env PYTHONPATH=src:tests python -m bench $(if $(RECORD),--record)

.PHONY: format
format: bootstrap ## Put the code into the form that the gates want
	@$(run) ruff check --fix .
	@$(run) ruff format .

.PHONY: wheelhouse
wheelhouse: bootstrap-lab ## Collect the wheels that the hosts install, for this machine's system
	@$(run) python tools/build_wheelhouse.py

.PHONY: bootstrap
bootstrap: ## Install what the lab and the gates need; nothing where nothing changed
	@$(as_root) tools/bootstrap.sh test

.PHONY: bootstrap-lab
bootstrap-lab:
	@$(as_root) tools/bootstrap.sh lab >&2

.PHONY: lock
lock: ## Resolve the requirements anew (for maintainers)
	@tools/lock.sh

.PHONY: clean
clean: ## Remove build/, except what labs need (destroy those first)
	@$(as_root) find build -mindepth 1 -maxdepth 1 ! -name lab ! -name labs -exec rm -rf {} +
