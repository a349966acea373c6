import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {"diffaug": "diffaug", "integrations": "diffaug/integrations", "recipes": "diffaug/recipes"}
SHIPPED = (".py", ".pyi", ".yaml", ".j2", ".typed", ".html", ".css", ".js", ".svg")


def source_files() -> Iterator[tuple[Path, str]]:
    """Files that belong in the wheel, each with its name there."""
    for folder, package in MAPPED.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SHIPPED or path.name == "py.typed":
                yield path, f"{package}/{path.relative_to(ROOT / folder).as_posix()}"


def test_pyproject_lists_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {str(Path(name).parent).replace("/", ".") for path, name in source_files() if path.name == "__init__.py"}
    assert set(listed) == found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that setuptools leaves nothing in the source tree."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in MAPPED:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "out"), cwd=tree)
    (built,) = (tree / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of a new environment with the wheel, which borrows the dependencies of this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    scripts = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--python", str(scripts / "python"))
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=environment)
    (site,) = (environment / "lib").glob("python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return scripts


def run(*command: str, cwd: Path) -> str:
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name for _, name in source_files()}


@pytest.mark.slow
def test_the_commands_work_where_the_source_tree_is_not(installed: Path, tmp_path: Path) -> None:
    script = run(str(installed / "diffaug"), "--help", cwd=tmp_path)
    assert "evaluate" in script
    assert script == run(str(installed / "python"), "-m", "diffaug", "--help", cwd=tmp_path)
    listing = run(str(installed / "diffaug"), "recipes", "list", cwd=tmp_path)
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert path.stem in listing
    shown = run(str(installed / "diffaug"), "recipes", "show", "demo", cwd=tmp_path)
    assert shown == (ROOT / "recipes" / "demo.yaml").read_text("utf-8")


@pytest.mark.slow
def test_integrations_and_trackers_are_found(installed: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import entry_points
import diffaug
from diffaug.integrations.albumentations_transforms import SyntheticReplace
print(diffaug.__file__, SyntheticReplace.get_class_fullname(), sep="\\n")
for point in entry_points(group="diffaug.trackers"):
    print(point.name, point.load().__module__)
"""
    file, transform, tracker = run(str(installed / "python"), "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(installed.parent)  # it is the wheel that is tested
    assert transform == "diffaug.integrations.albumentations_transforms.SyntheticReplace"
    assert tracker == "mlflow diffaug.integrations.mlflow_tracking"
