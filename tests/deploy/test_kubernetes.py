"""Kubernetes manifests of the servers that compute Stage-1: valid, and they name what there is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.live.remote.settings import RemoteSettings
from engines.remote.bundle_version import MODEL
from engines.spec import EngineSpec
from miner.answering.settings import EngineSettings

ROOT = Path(__file__).parents[2]
HOME, RAY = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "ray" / "cascade_serve.py"
MANIFESTS = sorted(HOME.glob("*.yaml"))
# Its package has the published schemas of Kubernetes; in an environment of its own, for it pins what it needs.
VALIDATOR = os.environ.get("KUBERNETES_VALIDATE_PYTHON", sys.executable)
# Kinds of others, whose schema is with their operator.
FOREIGN = {"RayService"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def of_kind(path: Path, kind: str) -> dict[str, Any]:
    [found] = [one for one in documents(path) if one["kind"] == kind]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_document_is_named_and_of_a_kind(path: Path) -> None:
    found = documents(path)
    assert found
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    assert all(one["apiVersion"] for one in found)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_published_schemas_take_it(path: Path, tmp_path: Path) -> None:
    if subprocess.run([VALIDATOR, "-c", "import kubernetes_validate"], capture_output=True, check=False).returncode:
        pytest.skip("kubernetes-validate is not installed; KUBERNETES_VALIDATE_PYTHON names an interpreter that has it")
    known = [one for one in documents(path) if one["kind"] not in FOREIGN]
    (tmp_path / "known.yaml").write_text(yaml.safe_dump_all(known))
    code = (
        "import sys, yaml, kubernetes_validate as k\n"
        "for one in yaml.safe_load_all(open(sys.argv[1])): k.validate(one, '1.34', strict=True)\n"
    )
    done = subprocess.run(
        [VALIDATOR, "-c", code, str(tmp_path / "known.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_settings_of_a_miner_that_it_names_are_taken(path: Path) -> None:
    comment = "\n".join(line.removeprefix("#").strip() for line in path.read_text().splitlines() if line[:1] == "#")
    remote = re.search(r"^remote = (\[.*\])$", comment, re.MULTILINE)
    assert remote is not None
    urls = ast.literal_eval(remote[1])
    assert EngineSettings(remote=urls).remote == tuple(urls)
    if (repository := re.search(r'^repository = "(.*)"$', comment, re.MULTILINE)) is not None:
        assert RemoteSettings(repository=Path(repository[1])).repository is not None


class TestTriton:
    path = HOME / "triton.yaml"

    def test_the_names_of_its_servers_are_those_that_a_miner_is_told(self) -> None:
        stateful = of_kind(self.path, "StatefulSet")
        name, service = stateful["metadata"]["name"], stateful["spec"]["serviceName"]
        assert of_kind(self.path, "Service")["metadata"]["name"] == service
        for number in range(stateful["spec"]["replicas"]):
            assert f'"http://{name}-{number}.{service}:8000"' in self.path.read_text()

    def test_everything_selects_its_pods(self) -> None:
        labels = of_kind(self.path, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
        assert of_kind(self.path, "Service")["spec"]["selector"] == labels
        for kind in ("StatefulSet", "PodDisruptionBudget"):
            assert of_kind(self.path, kind)["spec"]["selector"]["matchLabels"] == labels
        assert of_kind(self.path, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels

    def test_it_loads_the_model_that_is_exported_and_no_other(self) -> None:
        [container] = of_kind(self.path, "StatefulSet")["spec"]["template"]["spec"]["containers"]
        assert {f"--load-model={MODEL}", "--model-control-mode=explicit"} <= set(container["args"])
        assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{MODEL}/ready"
        mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        assert f"--model-repository={next(iter(mounted))}" in container["args"]


class TestRay:
    path = HOME / "ray.yaml"

    def test_its_application_takes_the_values(self) -> None:
        found = yaml.safe_load(of_kind(self.path, "RayService")["spec"]["serveConfigV2"])
        [application] = found["applications"]
        module, name = application["import_path"].split(":")
        assert module == RAY.stem
        tree = ast.parse(RAY.read_text())
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert name in functions
        [settings] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
        fields = {node.target.id for node in settings.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
        assert application["args"].keys() <= fields
        EngineSpec.model_validate(application["args"]["spec"])

    def test_all_its_pods_read_the_store(self) -> None:
        spec = of_kind(self.path, "RayService")["spec"]["rayClusterConfig"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            [volume] = group["template"]["spec"]["volumes"]
            assert volume["persistentVolumeClaim"]["claimName"] == "cascade-store"
