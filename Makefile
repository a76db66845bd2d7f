# `make test` is what CI runs; `make demo` trains and renders a scene that it makes itself.
# The environment may live elsewhere: make test VENV=/some/where
VENV ?= .venv
PYTHON ?= python3
RUN = $(abspath $(VENV))/bin
STAMP = $(VENV)/installed-$(shell cksum < requirements.txt | cut -d' ' -f1)

.PHONY: test test-all test-gpu test-faults lint types demo video which install clean

install: $(STAMP)

$(STAMP): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --disable-pip-version-check -q -r requirements.txt
	touch $@

test: lint types
	$(RUN)/python -m pytest

# Everything, also what takes minutes each.
test-all: lint types
	$(RUN)/python -m pytest -m "slow or not slow"

# Tests that need a GPU; skipped elsewhere.
test-gpu: $(STAMP)
	$(RUN)/python -m pytest -n4 --dist worksteal -rfs tests/gpu

# Kills at random moments and malformed input, in numbers.
test-faults: $(STAMP)
	$(RUN)/python -m pytest -m slow -s tests/faults

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	cd nsff_exp && $(RUN)/lint-imports --config ../pyproject.toml --no-cache

types: $(STAMP)
	$(RUN)/mypy

# A small scene as a video, and all that is made of a video: cameras, depth, flow, masks, fields, videos, figures, a page.
DEMO = --out demo --views demo/truth --config configs/config_demo.txt --height 144 --minutes 5 --render_factor 1 --every 8
demo: $(STAMP)
	test -f demo/clip.mp4 || $(RUN)/python nsff_scripts/make_demo_scene.py --overwrite --size 256x144 --data_path demo/truth --video demo/clip.mp4
	$(RUN)/python nsff_exp/run_all.py --video demo/clip.mp4 $(DEMO)

# The same for a clip of your own: make video VIDEO=clip.mp4 [OUT=folder] [OPTIONS="--minutes 120"]
video: which $(STAMP)
	$(RUN)/python nsff_exp/run_all.py --video "$(VIDEO)" $(if $(OUT),--out "$(OUT)") $(OPTIONS)

which:
	@test -f "$(VIDEO)" || { echo "error: '$(VIDEO)' is no file; make video VIDEO=clip.mp4" >&2; exit 2; }

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
