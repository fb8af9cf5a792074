# Each target sets up .venv by itself, once. ARGS is passed on: make demo ARGS="--data photographs/"
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint interop lock clean

help:
	@echo "make demo      train, certify, serve, be asked, hot-swap, keep score; about five minutes"
	@echo "make test      the tests"
	@echo "make lint      ruff and mypy"
	@echo "make interop   the protocol against a bittensor 9.9 dendrite, in a second virtual environment"
	@echo "make lock      resolve the pins of pyproject.toml anew"

setup:
	@scripts/setup

demo: setup
	@.venv/bin/cascade demo $(ARGS)

test: setup
	@.venv/bin/pytest $(ARGS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check -q .
	@.venv/bin/mypy

interop: setup
	@scripts/interop

lock: setup
	@scripts/lock

clean:
	rm -rf .venv .venv-bittensor9 cascade-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
