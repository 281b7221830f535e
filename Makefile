# make demo: a synthetic dataset, both levels, the report. make test: the tests. Both set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
JOBS ?= 2
export OMP_NUM_THREADS := 1

.PHONY: demo demo-flair demo-anomaly demo-dwi demo-spect score score-anomaly score-flair test lint format ci-full clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "torch>=2.4,<2.14"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	# An oracle of the tests; its dependency torchvision, which they do not need, would bring CUDA.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt zennit
	touch $(READY)

demo: $(READY)
	$(BIN)/brainwhy-demo make $(DEMO)/bids --force
	$(BIN)/brainwhy $(DEMO)/bids $(DEMO)/out participant group --recipe demo-t1w
	@echo "Open the report: file://$(abspath $(DEMO)/out/group.html)"
	@echo "Hold it against the truth: make score"

demo-anomaly: $(READY)
	$(BIN)/brainwhy-demo make $(DEMO)/maps --modality anomaly --force
	$(BIN)/brainwhy $(DEMO)/maps $(DEMO)/anomaly participant group --recipe demo-anomaly
	@echo "Open the report: file://$(abspath $(DEMO)/anomaly/group.html)"
	@echo "Hold it against the truth: make score-anomaly"

score-anomaly: $(READY)
	$(BIN)/brainwhy-demo score $(DEMO)/maps $(DEMO)/anomaly

# Lesions in FLAIR: networks from scratch, pre-trained on T1w, and with lesions filled, beside SVMs.
demo-flair: $(READY)
	$(BIN)/brainwhy-demo make $(DEMO)/ms --modality FLAIR --participants 16 --force
	$(BIN)/brainwhy $(DEMO)/ms $(DEMO)/flair participant group --recipe demo-flair-source
	$(BIN)/brainwhy $(DEMO)/ms $(DEMO)/flair participant group --recipe demo-flair \
		--compare config=demo-flair,demo-flair-pretrained,demo-flair-filled
	@echo "Open the comparison: file://$(abspath $(DEMO)/flair/model-demoflair_desc-compareconfig.html)"
	@echo "Hold it against the truth: make score-flair"

score-flair: $(READY)
	$(BIN)/brainwhy-demo score $(DEMO)/ms $(DEMO)/flair

# From raw diffusion series to diktiometry beside tests of MD, sigma and FA.
demo-dwi: $(READY)
	$(BIN)/brainwhy-demo make $(DEMO)/bids-dwi --modality dwi --force
	$(BIN)/brainwhy $(DEMO)/bids-dwi $(DEMO)/out-dwi participant group --recipe demo-dwi
	$(BIN)/brainwhy-demo score $(DEMO)/bids-dwi $(DEMO)/out-dwi
	@echo "Open the report: file://$(abspath $(DEMO)/out-dwi/group.html)"

demo-spect: $(READY)
	$(BIN)/brainwhy-demo make $(DEMO)/bids-spect --modality spect --force
	$(BIN)/brainwhy $(DEMO)/bids-spect $(DEMO)/out-spect participant --recipe demo-spect
	for setting in demo-spect-striatum demo-spect-nostriatum demo-spect; do \
	  $(BIN)/brainwhy $(DEMO)/bids-spect $(DEMO)/out-spect group --recipe $$setting || exit 1; done
	$(BIN)/brainwhy-demo score $(DEMO)/bids-spect $(DEMO)/out-spect
	@echo "Open the report: file://$(abspath $(DEMO)/out-spect/group.html)"

score: $(READY)
	$(BIN)/brainwhy-demo score $(DEMO)/bids $(DEMO)/out

test: $(READY)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What takes longer than a coffee: slow tests, the demo held against its truth, the container.
ci-full: lint test
	$(BIN)/python -m pytest -q -m slow
	$(MAKE) demo
	$(BIN)/brainwhy-demo score $(DEMO)/bids $(DEMO)/out --strict
	tests/hpc/container.sh
	tests/hpc/apptainer.sh
	PATH=$(abspath $(BIN)):$$PATH tests/hpc/slurm.sh

clean:
	rm -rf $(VENV) $(DEMO)
