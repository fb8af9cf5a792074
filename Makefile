# Each target sets up .venv by itself, once. ARGS is passed on: make demo ARGS="--data photographs/"
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lint docs wheel interop lock clean

help:
	@echo "make demo      train, certify, serve, be asked, hot-swap, keep score; about three minutes (ARGS=--quick: one)"
	@echo "make test      the tests, on all cores"
	@echo "make coverage  the tests again, with the branches that they take"
	@echo "make lint      ruff, mypy and the import contracts"
	@echo "make docs      the pages as a site, with their links checked"
	@echo "make wheel     the wheel, installed and run in an empty environment; ARGS=--demo: with training, 90 s more"
	@echo "make interop   the protocol against bittensor 9.9, 10.5 and 11.3, as a table; ARGS=--matrix: that alone"
	@echo "make lock      resolve the pins of pyproject.toml anew"

setup:
	@scripts/setup

demo: setup
	@.venv/bin/cascade demo $(ARGS)

test: setup
	@.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: setup
	@.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(ARGS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check -q .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache --no-logo

docs: setup
	@scripts/docs

wheel: setup
	@scripts/wheel $(ARGS)

interop: setup
	@scripts/interop $(ARGS)

lock:
	@scripts/lock

clean:
	rm -rf .venv .venv-bittensor* .venv-python* .venv-docs .site site cascade-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
