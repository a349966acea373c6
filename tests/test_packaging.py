"""What is released: the source archive is whole, and its wheel works where the source tree is not."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("integrations", "recipes")
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}
SHIPPED = (".css", ".html", ".j2", ".js", ".py", ".pyi", ".svg", ".typed", ".yaml")


def source_files() -> Iterator[str]:
    """Names of the files that belong in the wheel."""
    for folder in (ROOT / "diffaug", *(ROOT / "diffaug" / name for name in LINKED)):
        for path in folder.rglob("*"):
            if path.suffix in SHIPPED or path.name == "py.typed":
                yield path.relative_to(ROOT).as_posix()


@pytest.mark.skipif(not (ROOT / "integrations").is_dir(), reason="a source archive holds files in place of the links")
def test_linked_folders_are_packages_of_diffaug() -> None:
    for name in LINKED:
        assert (ROOT / "diffaug" / name).samefile(ROOT / name)
        assert (ROOT / name / "__init__.py").is_file()


def test_every_imported_package_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {normal(re.split(r"[^\w.-]", one)[0]) for one in project["dependencies"]}
    # of extras; of timm, which reads its weights; of notebooks, which bring it along
    optional = {"psutil", "pydicom", "huggingface-hub", "ipython"}
    names = {normal(DISTRIBUTIONS.get(module, module)) for module in imported()}
    assert names - declared - optional == set()


def imported() -> set[str]:
    """Top-level modules of other packages that diffaug imports, without its integrations."""
    paths = set((ROOT / "diffaug").rglob("*.py")) - set((ROOT / "diffaug" / "integrations").rglob("*.py"))
    found = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"diffaug"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive and the wheel made from it, built from a copy: setuptools writes into its source tree."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    ignored = shutil.ignore_patterns(".?*", "__pycache__", "*.egg-info", "runs", "build", "dist")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    shutil.copytree(ROOT / ".ci", tree / ".ci")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "out"), cwd=tree)
    return tree / "out"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


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
    assert held == set(source_files())


@pytest.mark.slow
def test_the_source_archive_holds_tests_and_changelog(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert held >= {"CHANGELOG.md", "LICENSE", "README.md", "mkdocs.yml", "docs/README.md", "pyproject.toml", *tests}


@pytest.mark.slow
def test_twine_finds_no_fault(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()), cwd=built)


@pytest.mark.slow
def test_the_commands_work_where_the_source_tree_is_not(installed: Path, tmp_path: Path) -> None:
    script = run(str(installed / "diffaug"), "--help", cwd=tmp_path)
    assert "evaluate" in script
    assert script == run(str(installed / "python"), "-m", "diffaug", "--help", cwd=tmp_path)
    listing = run(str(installed / "diffaug"), "recipes", "list", cwd=tmp_path)
    for path in (ROOT / "diffaug" / "recipes").glob("*.yaml"):
        assert path.stem in listing
    shown = run(str(installed / "diffaug"), "recipes", "show", "demo", cwd=tmp_path)
    assert shown == (ROOT / "diffaug" / "recipes" / "demo.yaml").read_text("utf-8")


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
