"""Every name of TensorRT that the code uses exists in the versions that nobody here can run.

The bindings of `tensorrt` are on PyPI, the libraries that they are linked with are not: nine functions that do nothing
stand in for them, and all classes and enums are there.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted(path for path in (Path(__file__).parents[4] / "engines" / "backends" / "tensorrt").glob("*.py"))
# What variables of these names are, in every file that calls the library.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_refitter": "OnnxParserRefitter",
    "refitter": "Refitter",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
    "settings": "IRuntimeConfig",
    "shapes": "IOptimizationProfile",
    "tensor": "ITensor",
    "timing": "ITimingCache",
}
# Reached through a call, which the reading of the source does not follow.
BESIDES = {"ParserError.desc", "DataType.UINT8", "DataType.FLOAT"}
# Members that only TensorRT-RTX has; what the module has alone is written `rtx.X` in the code.
RTX_ONLY = {
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "Runtime.engine_header_size",
    "Runtime.get_engine_validity",
}
CALLS = re.compile(r"flavour\.trt|trt: Any|runtime_cache")
STAND_INS = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
MISSING = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def found(path):
    thing = trt
    for name in path.split("."):
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True
print(json.dumps([trt.__version__, [path for path in json.loads(sys.argv[2]) if not found(path)]]))
"""


def chains(source: str) -> Iterator[list[str]]:
    """`["a", "b", "c"]` for each `a.b.c`; a leading `self` and underscores are left out."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            names.insert(0, root.attr)
            root = root.value
        if names and isinstance(root, ast.Name):
            whole = names if root.id == "self" else [root.id, *names]
            yield [whole[0].lstrip("_"), *whole[1:]]


def used(source: str, modules: tuple[str, ...]) -> set[str]:
    """Names of the library in a source, as paths from its module, which the source calls by one of these names."""
    names = set()
    for root, *rest in chains(source):
        if rest and root in modules:
            names.add(".".join(rest))
        elif rest and root in CLASSES:
            names.add(f"{CLASSES[root]}.{rest[0]}")
    return names


def all_used(*modules: str) -> set[str]:
    calling = [text for text in (path.read_text() for path in SOURCES) if CALLS.search(text)]
    assert len(calling) >= 7
    return BESIDES.union(*(used(text, modules) for text in calling)) - {"__version__"}


def missing(names: list[str], module: str, folder: Path | None = None) -> tuple[str, list[str]]:
    """Version of a library, and which of the names it lacks."""
    environment = dict(os.environ)
    if folder is not None:
        environment |= {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", MISSING, module, json.dumps(names)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    version, lacking = json.loads(done.stdout)
    return version, lacking


def bindings(version: str, folder: Path) -> None:
    """Unpack the bindings of a version, with libraries to link with that do nothing."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), f"tensorrt-cu13-bindings=={version}.*"], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    source = folder / "nothing.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in STAND_INS:
        library = folder / f"lib{name}.so.{version.partition('.')[0]}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)


def test_names_are_read_from_the_source() -> None:
    source = "trt.Builder(x)\nself._engine.num_io_tensors\nrtx.A.B\nbuilder.f(1).g\nother.h"
    assert used(source, ("trt", "rtx")) == {"Builder", "ICudaEngine.num_io_tensors", "A.B", "A", "Builder.f"}
    names = all_used("trt", "rtx")
    assert {"BuilderFlag.REFIT", "IExecutionContext.execute_async_v3", "Runtime.deserialize_cuda_engine"} <= names
    assert names >= RTX_ONLY | {"EngineValidity.INVALID"}


def test_every_name_is_in_the_tensorrt_that_is_installed() -> None:
    pytest.importorskip("tensorrt_rtx")
    assert missing(sorted(all_used("trt", "rtx")), "tensorrt_rtx")[1] == []


def test_a_name_that_is_gone_would_be_seen() -> None:
    pytest.importorskip("tensorrt_rtx")
    gone = ["BuilderFlag.FP16", "ICudaEngine.device_memory_size", "NoSuch.thing"]
    assert missing(gone, "tensorrt_rtx")[1] == gone


@pytest.mark.interop
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_every_name_is_in_the_tensorrt_of_production(version: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    bindings(version, tmp_path)
    found, lacking = missing(sorted(all_used("trt") - RTX_ONLY), "tensorrt_bindings", tmp_path)
    assert found.startswith(version)
    assert lacking == []


def test_every_function_of_cuda_is_in_its_bindings() -> None:
    runtime = importlib.import_module(pytest.importorskip("cuda.bindings.runtime").__name__)
    quoted = {
        node.value
        for name in ("cuda", "execution", "refit")
        for node in ast.walk(ast.parse((SOURCES[0].parent / f"{name}.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")
    }
    functions = {name for name in quoted if name.isidentifier()} - {"cuda"}
    assert "cudaGraphLaunch" in functions
    assert [name for name in functions if not hasattr(runtime, name)] == []
    assert hasattr(runtime, "cudaStreamNonBlocking")
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyDeviceToHost")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
