"""Random damage to valid files of all formats: a declared status each time, never an exception, in bounded memory."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from diffaug.decoding.decode import decode, peek, strict_pillow
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.result import DecodeStatus
from tests.decoding.odd_files import nifti
from tests.decoding.test_odd_files import ODD

MUTATIONS = 20_000
MEMORY = 300 * 2**20
COUNT, FOLDER = 1, 2  # positions in the arguments of the child


@pytest.mark.parametrize("count", [300, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
@pytest.mark.e2e
def test_damaged_files_have_a_declared_status(tmp_path: Path, count: int) -> None:
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(count), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert sum(report["statuses"].values()) == count
    assert report["statuses"].keys() <= set(get_args(DecodeStatus))
    assert report["statuses"]["ok"] > 0.05 * count  # damage to pixels or metadata, not only to headers
    assert report["grown"] < MEMORY


def seeds() -> list[tuple[str, bytes]]:
    """Valid files, one of each kind."""
    valid = [(odd.name, odd.content()) for odd in ODD if odd.status == "ok"]
    return [*valid, ("brain.nii.gz", nifti(compressed=True))]


def mutated(random: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """One or two flipped bits, changed bytes, cuts, and pieces of another file."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 3)):
        kind, position = random.integers(5), int(random.integers(max(1, len(changed))))
        if kind < 2 and changed:
            changed[position] ^= 1 << random.integers(8) if kind else random.integers(1, 256)
        elif kind == 2:
            changed[position : position + 4] = random.choice(
                [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]
            )
        elif kind == 3:
            del changed[position : position + int(random.integers(1, 64))]
        else:
            start = int(random.integers(len(other)))
            changed[position:position] = other[start : start + int(random.integers(1, 200))]
    return bytes(changed)


def memory(key: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Decodes mutations and prints how often each status came, and by how much memory has grown."""
    import PIL.ImageCms  # noqa: F401

    random, files, statuses = np.random.default_rng(0), seeds(), dict[str, int]()
    intensity = IntensityRange(0, 4095, "")
    before = memory("VmRSS")
    limit = memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(int(sys.argv[COUNT])):
        name, content = files[number % len(files)]
        file = Path(sys.argv[FOLDER]) / name
        file.write_bytes(mutated(random, content, files[random.integers(len(files))][1]))
        with strict_pillow():
            header = peek(file)
            for page in range(min(header.pages, 2) if header else 1):
                result = decode(file, page=page, intensity=intensity)
                assert (result.pixels is not None) == (result.status == "ok")
        statuses[result.status] = statuses.get(result.status, 0) + 1
    print(json.dumps({"statuses": statuses, "grown": memory("VmHWM") - before}))


if __name__ == "__main__":
    main()
