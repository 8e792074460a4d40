# Everything works on a machine that has Python 3.10 or newer with pip, and make. The first target that needs ComfyUI
# installs one into a cache outside the checkout, unless you have one: COMFYUI_PATH=/path/to/ComfyUI make demo
PYTHON ?= python3
ARGS ?=

.PHONY: help demo test test-quick test-hosts test-package lint provision train train-heroes train-classifier train-segmenter docs pictures bench bench-live bench-quality paper clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1\t/p' Makefile

demo: ## Make pictures without and with Self-Attention Guidance, into demo_output/
	@$(PYTHON) -m tools.demo

test: ## Lint, then all tests against a real ComfyUI; ARGS="tests/core -k mask" passes on to pytest
	@$(PYTHON) -m tools.check test $(ARGS)

test-quick: ## Lint, and the tests of the method, its promises and the nodes, in a minute
	@$(PYTHON) -m tools.check quick $(ARGS)

test-hosts: ## Test on several versions of ComfyUI; ARGS="--hosts 0.18.2,0.24.0 tests/host" chooses
	@$(PYTHON) -m tools.hosts $(ARGS)

test-package: ## Pack the pack as the registry does, then install and remove it as ComfyUI-Manager does
	@$(PYTHON) -m tools.check pytest tests/install $(ARGS)

lint: ## Lint alone
	@$(PYTHON) -m tools.check lint

provision: ## Install ComfyUI and the test tools into the cache
	@$(PYTHON) tools/provision.py

train: ## Train the embedded model again and draw its samples; resumes, takes ARGS (training/README.md)
	@$(PYTHON) -m tools.run training.train $(ARGS)
	@$(PYTHON) -m tools.run training.sample

train-heroes: ## Train the model of adventurers; ARGS="--tiles FOLDER-OR-ARCHIVE" says where its tiles are (training/README.md)
	@$(PYTHON) -m tools.run training.train_heroes $(ARGS)
	@$(PYTHON) -m tools.run training.sample --model models/heroes32.safetensors --out training/heroes.png

train-segmenter: ## Train the network that finds the adventurer in a picture; takes ARGS="--tiles FOLDER-OR-ARCHIVE"
	@$(PYTHON) -m tools.run training.segmenter $(ARGS)

train-classifier: ## Train the embedded classifier of noisy images again; resumes, takes ARGS (training/README.md)
	@$(PYTHON) -m tools.run training.classifier $(ARGS)

docs: ## Let the tests write the tables of docs/models.md and docs/compatibility.md
	@$(PYTHON) -m tools.check pytest --write-docs tests/host/test_families.py tests/host/test_compatibility*.py

pictures: ## Make the pictures of the help pages, the example workflows and the README; ARGS names some of them
	@$(PYTHON) -m tools.run tools.pictures $(ARGS)

bench-quality: ## Draw what steps left out cost in quality; resumes, takes ARGS (benchmarks/README.md)
	@$(PYTHON) -m tools.run benchmarks.cost_quality $(ARGS)

paper: ## Rerun the paper's tables on the embedded model (docs/results.md); resumes, takes ARGS such as --quick
	@$(PYTHON) -m benchmarks.paper $(ARGS)

bench: ## Measure time and memory of guidance (benchmarks/README.md); takes ARGS
	@$(PYTHON) -m tools.run benchmarks.cost $(ARGS)

bench-live: ## Measure what the live view costs a run (benchmarks/README.md); takes ARGS
	@$(PYTHON) -m tools.run benchmarks.live_view $(ARGS)

clean: ## Remove what the other targets left in the checkout; the cache outside it stays
	rm -rf demo_output tests/browser/screenshots .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
