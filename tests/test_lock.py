"""The lock, the requirements exported from it, and pyproject.toml say the same."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "requirements.txt": {"main"},
    "requirements-extras.txt": {"main", "sweep", "wandb", "huggingface", "caption", "bitsandbytes"},
    "requirements-dev.txt": {"main", "sweep", "wandb", "huggingface", "caption", "bitsandbytes", "dev"},
}
LINUX = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
MACOS = LINUX | {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def lock():
    return tomllib.loads((ROOT / "poetry.lock").read_text())["package"]


def exported(file):
    """Name to (version, marker, hashes) of each line of a requirements file."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    packages = {}
    for line in text.splitlines():
        requirement, *options = line.split("--hash=")
        parsed = Requirement(requirement.strip())
        version = str(parsed.specifier).removeprefix("==")
        hashes = {option.strip() for option in options}
        packages[normalised(parsed.name)] = (version, parsed.marker, hashes)
    return packages


@pytest.mark.parametrize("file", FILES)
def test_requirements_are_what_the_lock_says(lock, file):
    wanted = {
        normalised(p["name"]): (p["version"], {f["hash"] for f in p["files"]})
        for p in lock
        if FILES[file] & set(p["groups"])
    }
    found = {name: (version, hashes) for name, (version, _, hashes) in exported(file).items()}
    assert found == wanted


def test_the_lock_satisfies_pyproject(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {normalised(p["name"]): p["version"] for p in lock}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[normalised(requirement.name)]), line


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_version_of_each_package_on_linux(lock, python):
    environment = LINUX | {"python_version": python, "python_full_version": f"{python}.0"}
    names = [p["name"] for p in lock if applies(p, environment)]
    assert len(names) == len(set(names))
    assert {"torch", "nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-nvjitlink"} <= set(names)


def test_no_cuda_packages_on_macos(lock):
    environment = MACOS | {"python_version": "3.11", "python_full_version": "3.11.0"}
    names = [p["name"] for p in lock if applies(p, environment)]
    assert "torch" in names
    # nvidia-ml-py is pure Python: it reads the GPU's state where there is one.
    assert [n for n in names if n.startswith(("nvidia", "triton", "cuda"))] == ["nvidia-ml-py"]


def test_the_lock_names_no_other_index(lock):
    assert not [p["name"] for p in lock if "source" in p]


def applies(package, environment):
    markers = package.get("markers", {})
    if isinstance(markers, dict):  # one marker for each group
        return not markers or any(Marker(m).evaluate(environment) for m in markers.values())
    return Marker(markers).evaluate(environment)
