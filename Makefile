# For people: `make demo`, `make test`, and while writing `make test-fast`; for measuring: `make bench`, `make paper`,
# `make weights`. Each sets up .venv first, once.
PYTHON ?= python3
SCAN ?=
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast fuzz lint bench paper weights screenshots clean

demo: .venv/.demo
	.venv/bin/python -m GaborSegLib demo --output demo $(if $(SCAN),"$(SCAN)")

test: .venv/.test
	.venv/bin/python -m pytest

# Under a minute: no processes, no real scans, nothing that takes long.
test-fast: .venv/.test
	.venv/bin/python -m pytest -m "not (processes or real or slow)"

# Damaged, absurd and hostile inputs, see Testing/fuzz/README.md.
fuzz: .venv/.test
	.venv/bin/python -m Testing.fuzz --seed $(or $(SEED),0) -n $(or $(N),100) $(if $(KEEP),--keep "$(KEEP)")

lint: .venv/.test
	.venv/bin/ruff check
	.venv/bin/ruff format --check

bench: .venv/.bench
	.venv/bin/python Testing/benchmarks/peers.py
	.venv/bin/python Testing/benchmarks/whole_click.py
	.venv/bin/python Testing/benchmarks/layers.py

# The figures and tables of docs/paper.md. Hours on a CPU, mostly for Fig. 3; what is done is not done again.
paper: .venv/.bench
	.venv/bin/python Testing/paper/figure1.py
	.venv/bin/python Testing/paper/sizes.py
	.venv/bin/python Testing/paper/figure4.py --icbm
	.venv/bin/python Testing/paper/study.py --workers $(or $(WORKERS),1)
	.venv/bin/python Testing/paper/figure3.py --document docs/paper.md
	.venv/bin/python Testing/paper/open_questions.py --workers $(or $(WORKERS),1)

# Trains the bundled weight files anew: hours, on a CPU; with GPU=--gpu the recipe for one.
weights: .venv/.bench
	.venv/bin/python Testing/benchmarks/recipe.py $(or $(VARIANT),mixed) $(GPU)

# Pictures of the panel in the test host, to look at what one changed.
screenshots: .venv/.test
	.venv/bin/python Testing/panel/screenshots.py screenshots

clean:
	rm -rf .venv demo screenshots

.venv/bin/python:
	$(PYTHON) -m venv .venv

# A stamp for each set of packages, so that the second run installs nothing.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[demo]"
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[test]"
	touch $@

.venv/.bench: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[demo,bench,cohort]"
	touch $@
