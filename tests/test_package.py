"""What is given to an index: an sdist that is complete, and the wheel that is made of it.

Nothing is downloaded: both are built by the setuptools that is installed.
"""

import email
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Bytes; the largest part is the code.
LARGEST_WHEEL = 1_000_000
# What a clone may hold besides its files, and no link to it.
LEFT_OUT = (".git", ".venv*", "*.egg-info", "build", "dist", "__pycache__", ".*_cache")


def run_backend(call: str, folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Has setuptools build something, as a frontend does; the path of it."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.{call})"
    run = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return out / run.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    # Older ones do not know the license as pyproject.toml names it.
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(
        ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT)
    )
    return run_backend("build_sdist(sys.argv[1])", folder, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist, so that it shows that the sdist can be built."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return run_backend("build_wheel(sys.argv[1])", source, tmp_path_factory.mktemp("wheel"))


def tracked() -> set[str]:
    """The files of the repository."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs a clone, and git")
    found = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # One that was removed and not yet committed is no file.
    return {name for name in found.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.mark.slow
def test_the_sdist_holds_the_repository(sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert tracked() <= names


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_e2e").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = {name for name in names if ".dist-info/" in name}
    assert {*names} - info == here
    assert any(name.endswith("/licenses/LICENSE") for name in info)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < LARGEST_WHEEL


@pytest.mark.slow
def test_the_metadata_says_what_an_index_shows(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(file.read(name))
    assert metadata["Author"] == "The keras_e2e authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    extras = metadata.get_all("Provides-Extra")
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


def test_every_extra_is_documented():
    rows = re.findall(
        r"^\| `\[(\w+)\]` \|", (ROOT / "docs/installation.md").read_text(), re.M
    )
    assert sorted(rows) == sorted(PROJECT["optional-dependencies"])


def test_the_pythons_it_is_said_to_run_on_are_allowed():
    said = re.findall(r":: Python :: 3\.(\d+)$", "\n".join(PROJECT["classifiers"]), re.M)
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert least is not None and min(said, key=int) == least[1]
