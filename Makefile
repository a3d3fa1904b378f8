# Each target makes and reuses .venv by itself; Python 3.11 and pip are enough to start.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run
DEV := $(VENV)/.dev

DEMO_OUTPUT ?= results/demo
DEMO_SETS ?= 3
DEMO_EXPERIMENTS ?= 8
DEMO_SEED ?= 31415
DEMO_LABEL ?= "other data: simulation, closure"
WORKERS ?= 2

.PHONY: demo test slow lint bench gate kernel clean

demo: $(RUN)
	$(BIN)/python -m scripts.make_weights --config training/configs/demo.yaml --network weights --data data \
	    --build build/demo --output build/demo/weights
	$(BIN)/python -m scripts.make_submission --weights build/demo/weights --output build/demo/sage_submission.zip
	$(BIN)/python -m scripts.run_ingestion --submission build/demo/sage_submission.zip --data data --test-size 0.5 \
	    --sets $(DEMO_SETS) --experiments $(DEMO_EXPERIMENTS) --seed $(DEMO_SEED) --workers $(WORKERS) \
	    --output $(DEMO_OUTPUT)/run --overwrite
	$(BIN)/python -m scripts.postfit --weights build/demo/weights --data data --test-size 0.5 --seed $(DEMO_SEED) \
	    --workers $(WORKERS) --output $(DEMO_OUTPUT)/postfit
	$(BIN)/python -m scripts.score --results $(DEMO_OUTPUT)/run --label $(DEMO_LABEL)
	$(BIN)/python -m scripts.report --results $(DEMO_OUTPUT)/run --postfit $(DEMO_OUTPUT)/postfit \
	    --weights build/demo/weights --label $(DEMO_LABEL) --output $(DEMO_OUTPUT)/report.html
	@echo "Closure: the yield tables were built anew from the very simulated events the pseudo-data are drawn from,"
	@echo "so this shows that everything runs and gives mu back; it is not a result on the challenge's data."
	@echo "Open $(DEMO_OUTPUT)/report.html"

# Tests of one file share what they need, and stay together. No test here depends on how fast or busy the machine is:
# those that time something compare it with another time of the same process, with a wide margin, and need no core alone.
test: $(DEV)
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

# About an hour; HEP_CHALLENGE_DIR=CHECKOUT adds the challenge's own programs as client.
slow: $(DEV)
	$(BIN)/python -m pytest -m slow

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vermin -q --target=3.10- --no-tips --eval-annotations --violations model.py sage
	$(BIN)/hadolint Dockerfile

bench: $(DEV)
	$(BIN)/python -m benchmarks.predict --output results/benchmarks

gate: $(DEV)
	$(BIN)/python -m benchmarks.gate

# The library is committed; this makes the same bytes again from its source.
kernel: $(DEV)
	$(BIN)/pip install --quiet ziglang==0.17.1
	$(BIN)/python -m native.build

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(RUN): requirements.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

$(DEV): requirements-dev.txt requirements-simulation.txt requirements-cluster.txt requirements.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@ $(RUN)

clean:
	rm -rf $(VENV) build results
