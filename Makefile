# The verbs a person types. Everything lives in .venv inside the checkout; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= dev,ray,real,databases
# Test files that run at the same time, each with one thread of torch.
JOBS ?= 2
STAMP := .venv/.installed

.PHONY: install simulate test lint bench docs clean deploy-demo

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fugou needs Python >= 3.11; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	"$(BIN)/python" -m pip install -q --disable-pip-version-check -c constraints.txt 'setuptools>=77' wheel
	"$(BIN)/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)

simulate: install
	"$(BIN)/fugou" simulate shops-zh $(ARGS)

# A coordinator and three merchants as processes of their own on loopback: TLS, node keys, proxy; needs nginx.
deploy-demo: install
	@command -v nginx >/dev/null || { echo "nginx is missing; apt-get install nginx, or name its path in coordinator.nginx" >&2; exit 2; }
	"$(BIN)/fugou" simulate shops-zh --engine deployment --merchants 3 --rounds 3 $(ARGS)

lint: install
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

test: lint
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist loadfile $(ARGS)

bench: install
	"$(BIN)/fugou" bench $(ARGS)

docs: install
	"$(BIN)/python" docs/pages.py

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
