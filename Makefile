# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 90
OHIF := @ohif/app@3.13.2
READY := $(VENV)/.ready-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: demo test check lint bench chaos fuzz train train-env viewer debian clean lock tools sbom audit

demo: $(READY)  ## the main job, end to end: phantom CT in, results back in a PACS (INPUT=folder sends your own images)
	@$(BIN)/spine-node demo $(if $(INPUT),--input "$(INPUT)")

test: lint debian  ## every test; nothing in it depends on what the network says today
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: lint  ## lint, types, generated files, and known weaknesses of what is locked (a line says so where nobody can be asked)
	@$(PYTHON) deploy/audit.py build/tools/bin/pip-audit || test $$? -eq 2

lint: $(READY)  # of check what needs no network
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p node -p inference
	$(BIN)/python -m node.results.schema --check

bench: $(READY) debian  ## speed against peers: prints a table, writes build/bench.json
	$(BIN)/python -m tests.benchmarks

chaos: $(READY) debian  ## the full fault suite, KILLS random kills (200) among them; prints what each fault cost
	@rm -f build/chaos.jsonl
	SPINE_NODE_CHAOS_KILLS=$(or $(KILLS),200) SPINE_NODE_CHAOS_COUNTS=$(CURDIR)/build/chaos.jsonl \
	  $(BIN)/python -m pytest -n 0 -m chaos tests

fuzz: $(READY)  ## hostile conversations and data sets for FUZZ_MINUTES (10), others in every round; prints how many
	$(BIN)/python -m tests.fuzz --minutes $(or $(FUZZ_MINUTES),10)

train-env: $(READY)  ## adds PyTorch, for training only; pick a build that fits your driver with PIP_INDEX_URL or find-links
	$(BIN)/pip install --quiet "torch==2.13.0" "onnxscript>=0.7"

train: train-env  ## every shipped model again, MINUTES each, and its figures; resumes where it was stopped
	$(BIN)/python -m onnx_models.training.labeller_scenes
	$(BIN)/python -m onnx_models.training.segmenter_generator phantom --count 900
	$(BIN)/python -m onnx_models.training.segmenter_generator held-out --count 60
	-$(BIN)/python -m onnx_models.training.segmenter_generator shapes --count 600  # needs the real shapes (CONTRIBUTING.md)
	$(BIN)/python -m onnx_models.training.completion_data
	$(BIN)/python -m onnx_models.training.film_generator --count 340 --held-out 24
	$(BIN)/python -m onnx_models.training.film_points_films --count 560
	$(BIN)/python -m onnx_models.training.film_foreign_films
	for network in localizer keypoints labeller segmenter completion film film_mdr2unet film_points film_foreign; do \
	  $(BIN)/python -m onnx_models.training.train $$network --minutes $(MINUTES) && \
	  $(BIN)/python -m onnx_models.training.export $$network || exit 1; \
	done
	$(BIN)/python -m onnx_models.training.evaluate
	$(BIN)/python -m onnx_models.training.evaluate --set 2
	for judge in labeller segmenter completion film_points film_foreign; do \
	  $(BIN)/python -m onnx_models.training.$${judge}_evaluation --card || exit 1; \
	done
	$(BIN)/python -m onnx_models.training.radiograph_evaluation --card --body-network film_mdr2unet
	$(BIN)/python -m onnx_models.training.radiograph_comparison --card

debian:  # tests against Orthanc and DCMTK need Debian's packages; without root they are skipped, saying so
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { command -v Orthanc && command -v storescu && command -v strace && command -v pgbouncer; } >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends orthanc dcmtk strace pgbouncer >/dev/null; \
	fi

viewer:  ## what the tests in a real viewer need: OHIF (50 MB) below build/, as root also Debian's chromium and DICOMweb
	@mkdir -p build/ohif
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v chromium >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium orthanc orthanc-dicomweb $$(command -v npm >/dev/null || echo npm) >/dev/null; \
	fi
	@test -f build/ohif/package/dist/index.html || (cd build/ohif && npm pack --silent $(OHIF) >/dev/null && tar xzf ohif-app-*.tgz && rm ohif-app-*.tgz)

$(READY): requirements.lock pyproject.toml
	@echo "setting up $(VENV) from requirements.lock"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@rm -f $(VENV)/.ready-* && touch $@

lock:  ## pins every dependency again, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml --group test -o requirements.lock

tools:  # cyclonedx-bom and pip-audit in an environment of their own: neither runs in a hospital
	@test -x build/tools/bin/cyclonedx-py -a -x build/tools/bin/pip-audit || { $(PYTHON) -m venv build/tools && \
	  build/tools/bin/pip install --quiet --disable-pip-version-check "cyclonedx-bom==7.5.0" "pip-audit==2.10.1"; }

sbom: $(READY) tools  ## bill of materials of what runs (CycloneDX), deploy/sbom.cdx.json
	@build/tools/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o build/environment.cdx.json
	$(BIN)/python deploy/sbom.py build/environment.cdx.json

audit: tools  ## known weaknesses of what is locked; 2 where the advisory service cannot be asked
	@$(PYTHON) deploy/audit.py build/tools/bin/pip-audit

clean:
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
