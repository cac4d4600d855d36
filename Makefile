# Two commands for people: `make demo` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
SCAN ?=
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test bench screenshots clean

demo: .venv/.demo
	.venv/bin/python -m GaborSegLib.demo --output demo $(if $(SCAN),"$(SCAN)")

test: .venv/.test
	.venv/bin/python -m pytest

bench: .venv/.test
	.venv/bin/python Testing/benchmarks/inference.py
	.venv/bin/python Testing/benchmarks/layers.py

screenshots: .venv/.test
	.venv/bin/python Testing/panel/screenshots.py docs/images

clean:
	rm -rf .venv demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

# A stamp for each set of packages, so that the second run installs nothing.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[demo]"
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[test]"
	touch $@
