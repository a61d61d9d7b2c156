"""The sample plugin of the authors' guide: built, installed beside the kernel's own wheel, and at work. No kernel line
knows of it, and nothing is fetched: what the wheels require is borrowed from the environment that runs the tests."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import sysconfig
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "plugin_sample"

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def sample_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, built = tmp_path_factory.mktemp("sample"), tmp_path_factory.mktemp("built")
    for origin in SAMPLE.rglob("*"):
        if origin.is_file() and not {"__pycache__", "build"} & set(origin.parts) and ".egg-info" not in str(origin):
            copy = source / origin.relative_to(SAMPLE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(origin.read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source)]
    done = subprocess.run(build, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheels: Path, sample_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Python of a clean environment that has the kernel, the SQLite datastore and the sample."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    chosen = [next(wheels.glob(f"{name}-*.whl")) for name in ("calico_kernel", "calico_datastore_sqlite")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(inside)]
    done = subprocess.run([*install, *map(str, [*chosen, sample_wheel])], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (inside / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(home / "bin" / "python"), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, input=text)

    return run


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "calico.yaml"
    path.write_text(
        textwrap.dedent(
            f"""
            node: n1
            datastore: {{plugin: sqlite, path: {tmp_path}/calico.db}}
            ipam: none
            extensions: [{{plugin: sample, default_owner: ops, max_unowned: 0}}]
            """
        )
    )
    return str(path)


def _calicoctl(python: Run, config: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return python("-m", "calico_kernel.cli.calicoctl", "-c", config, *arguments, text=text)


OWNER = "apiVersion: example.org/v1\nkind: Owner\nmetadata: {name: ops}\nspec: {email: EMAIL, maxEndpoints: 1}\n"


def test_environment_has_the_wheels_and_not_the_sources(python: Run) -> None:
    found = python("-c", "import calico_kernel, calico_sample; print(calico_kernel.__file__, calico_sample.__file__)")
    assert found.returncode == 0, found.stderr
    assert str(ROOT) not in found.stdout


def test_kind_validator_and_command_work_in_calicoctl(python: Run, config: str) -> None:
    refused = _calicoctl(python, config, "apply", "-f", "-", text=OWNER.replace("EMAIL", "nobody"))
    assert refused.returncode == 1 and "error with field spec.email ('nobody' is no e-mail address)" in refused.stderr
    applied = _calicoctl(python, config, "apply", "-f", "-", text=OWNER.replace("EMAIL", "ops@example.org"))
    assert (applied.returncode, applied.stdout) == (0, "Successfully applied 1 'Owner' resource(s)\n"), applied.stderr
    stored = json.loads(_calicoctl(python, config, "get", "owner", "ops", "-o", "json").stdout)
    assert stored["apiVersion"] == "example.org/v1" and stored["spec"]["maxEndpoints"] == 1
    assert _calicoctl(python, config, "get", "owners").stdout.split() == ["NAME", "ops"]
    assert _calicoctl(python, config, "owned").returncode == 0
    assert "owned" in _calicoctl(python, config, "--help").stdout


AT_WORK = """
import json, sys
from calico_kernel.client import Client, ensure_initialized
from calico_kernel.compose import compose
from calico_kernel.config import load
from calico_kernel.errors import ValidationError
from calico_kernel.model.documents import to_resource

composition = compose(load(sys.argv[1]))
client = Client(store=composition.open_datastore(), validators=composition.validators())
ensure_initialized(client)
[observer] = [opened.value for opened in composition.endpoint_observers()]
[check] = composition.health_checks()

def endpoint(pod):
    return to_resource({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"namespace": "shop"}, "spec": {"orchestrator": "k8s", "node": "n1", "pod": pod,
        "endpoint": "eth0", "interfaceName": "cali" + pod, "ipNetworks": ["10.0.0.1/32"]}})

stored = client.create(observer.creating(endpoint("a")))
try:
    observer.creating(endpoint("b"))
    refused = ""
except ValidationError as exc:
    refused = exc.what
print(json.dumps({
    "labels": stored.metadata.labels,
    "refused": refused,
    "metrics": [[m.name, dict(m.labels), m.value] for m in composition.metrics()],
    "healthy": check.check().ok,
}))
"""


def test_observer_metrics_and_health_work_in_a_composition(python: Run, config: str) -> None:
    _calicoctl(python, config, "apply", "-f", "-", text=OWNER.replace("EMAIL", "ops@example.org"))
    done = python("-c", AT_WORK, config)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["labels"]["example.org/owner"] == "ops"
    assert "owner ops has 1 endpoints here already" in said["refused"]
    assert said["metrics"] == [["sample_endpoints", {"owner": "ops"}, 1]]
    assert said["healthy"] is True
    assert _calicoctl(python, config, "owned").stdout == "ops: shop/n1-k8s-a-eth0\n"


def test_settings_of_the_sample_are_checked_like_any_others(python: Run, config: str) -> None:
    Path(config).write_text(Path(config).read_text().replace("max_unowned", "max_unownd"))
    checked = python("-m", "calico_kernel.cli.calico", "config", "check", "-c", config)
    assert checked.returncode == 1
    assert "plugin extension:sample has no setting 'max_unownd'; did you mean 'max_unowned'?" in checked.stderr


def test_its_own_tests_pass(python: Run) -> None:
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(SAMPLE / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr
