# Two commands do everything on a fresh Debian-like machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATASTORE ?= sqlite

.PHONY: setup demo test e2e wheelhouse manifests clean

setup:
	@PYTHON="$(PYTHON)" sh tools/system-packages.sh --setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh

demo:
	@PYTHON="$(PYTHON)" DATASTORE="$(DATASTORE)" sh tools/system-packages.sh
	@if [ "$(DATASTORE)" = kubernetes ]; then sh tools/kubernetes/build.sh >/dev/null; fi
	@$(MAKE) --no-print-directory setup
	@$(BIN)/calico lab run examples/recipes --datastore "$(DATASTORE)"

test:
	@PYTHON="$(PYTHON)" sh tools/system-packages.sh --test
	@sh tools/kubernetes/build.sh >/dev/null
	@$(MAKE) --no-print-directory setup
	@$(BIN)/tox run -q

# Kubernetes itself: API server, controllers, scheduler, and two nodes with kubelet and containerd. Needs real root.
e2e:
	@PYTHON="$(PYTHON)" sh tools/system-packages.sh --e2e
	@sh tools/kubernetes/build.sh >/dev/null
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python tests/e2e/world.py $(BIN)/python -m pytest -v $(E2E) tests/e2e

# Every wheel that a node needs, in build/wheelhouse: for hosts without a network, and for install/docker/Dockerfile.
wheelhouse: setup
	@rm -rf build/wheelhouse
	@$(BIN)/python tools/wheelhouse.py build/wheelhouse

# The definitions in install/, and in build/manifests one file for each datastore, for `kubectl apply -f`.
manifests: setup
	@$(BIN)/calicoctl crds > install/kubernetes/crds/crds.yaml
	@mkdir -p build/manifests
	@kubectl=$$(sh tools/kubernetes/build.sh)/kubectl; \
	$$kubectl kustomize install/kubernetes/overlays/kdd > build/manifests/calico.yaml; \
	$$kubectl kustomize install/kubernetes/overlays/etcd > build/manifests/calico-etcd.yaml

lock:
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.in
	@build/lock/bin/python -m pip freeze --all --exclude pip > requirements.lock

clean:
	rm -rf $(VENV) .tox build dist
