"""After a power cut at any moment of a command, the same command comes to the same end."""

import random

import pytest

from tests.faults.power import Disk, read_log, write_disk
from tests.faults.world import COMMANDS

CUTS = {"fit": 40, "generate": 45, "evaluate": 45, "export": 45, "second generator": 25}
KEPT = ("nothing", "names", "part")


@pytest.mark.parametrize("name", CUTS)
def test_a_command_survives_a_power_cut(name, world, figures, sample, tmp_path):
    world.end_of(name)
    world.restore(COMMANDS[name].before)
    disk = Disk(world.folder)
    assert world.run(COMMANDS[name], log=str(tmp_path / "log")).code == 0
    operations = read_log(tmp_path / "log")
    tried, source, done = figures("power cuts", name, len(operations) * len(KEPT)), random.Random(0), 0
    for turn, cut in enumerate(sample(len(operations), CUTS[name])):
        for operation in operations[done:cut]:
            disk.apply(operation)
        done, kept = cut, KEPT[turn % len(KEPT)]
        write_disk(world.folder, disk.after_cut(kept, source))
        again = world.again(name)
        problem = world.problem_of(name, again)
        tried.add(f"cut after operation {cut} of {len(operations)}, kept {kept}", problem)
    tried.require_none()


def test_the_record_of_all_operations_leads_to_the_same_files(world, tmp_path):
    world.restore("fit")
    disk = Disk(world.folder)
    assert world.run(COMMANDS["generate"], log=str(tmp_path / "log")).code == 0
    for operation in read_log(tmp_path / "log"):
        disk.apply(operation)
    files = {str(path): path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}
    seen = disk.seen()
    assert {path: content for path, content in seen.items() if content is not None} == files
