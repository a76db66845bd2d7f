# `make test` is what CI runs; `make demo` trains and renders a scene that it makes itself.
# The environment may live elsewhere: make test VENV=/some/where
VENV ?= .venv
PYTHON ?= python3
RUN = $(abspath $(VENV))/bin
STAMP = $(VENV)/installed-$(shell cksum < requirements.txt | cut -d' ' -f1)

.PHONY: test lint types demo install clean

install: $(STAMP)

$(STAMP): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --disable-pip-version-check -q -r requirements.txt
	touch $@

test: lint types
	$(RUN)/python -m pytest

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(STAMP)
	$(RUN)/mypy

# A tiny scene, a few thousand steps, three videos and metrics against held-out cameras.
DEMO = --config configs/config_demo.txt --datadir ../demo/dense --basedir ../demo/logs
DEMO_VIDEOS = --render_bt --render_lockcam_slowmo --render_slowmo_bt --times 8:12 --slowmo_factor 6
demo: $(STAMP)
	test -d demo/dense || $(RUN)/python nsff_scripts/make_demo_scene.py --data_path demo/dense
	cd nsff_exp && $(RUN)/python run_nerf.py $(DEMO)
	cd nsff_exp && $(RUN)/python render.py $(DEMO) $(DEMO_VIDEOS)
	cd nsff_exp && $(RUN)/python evaluation.py $(DEMO)
	@ls demo/logs/*/render-*/video.mp4 demo/logs/*/sheet.jpg

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
