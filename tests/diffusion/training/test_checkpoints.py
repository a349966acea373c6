"""The state of a training comes back from the newest checkpoint that is whole."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter

from diffaug.diffusion.training.checkpoints import (
    moments_of,
    read_latest,
    restore_latest,
    restore_moments,
    save_checkpoint,
    write_checkpoint,
)
from diffaug.errors import DamagedError
from diffaug.files import storage

TEXT = TypeAdapter(str)


def state_of(seed: int, **counters: object) -> SimpleNamespace:
    """A state whose network has made one step of Adam, with what a snapshot may hold."""
    torch.manual_seed(seed)
    loss, averaged = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    trained = dict(loss.named_parameters())
    optimizer = torch.optim.Adam([loss.weight], lr=0.1)  # the bias has no moments
    loss(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    numbers = {"step": 7, "rollbacks": 1, "micro_batches": 4, "safe_step": 5, "pace": None, "seconds": 2.5, **counters}
    snapshots = {"guide": {"a.b": torch.randn(2)}, "safe": None}
    skipped = {"skipped": torch.tensor(seed), "skipped_in_a_row": torch.tensor(seed + 1)}
    return SimpleNamespace(
        loss=loss, averaged=averaged, trained=trained, optimizer=optimizer, **snapshots, **skipped, **numbers
    )


def content_of(state: SimpleNamespace) -> tuple[object, ...]:
    tensors = [*state.loss.state_dict().values(), *state.averaged.state_dict().values()]
    moments = {
        kind: {name: one.tolist() for name, one in own.items()}
        for kind, own in moments_of(state.optimizer, state.trained).items()
    }
    snapshots = [one and {name: own.tolist() for name, own in one.items()} for one in (state.guide, state.safe)]
    numbers = [state.step, state.rollbacks, state.micro_batches, state.safe_step, state.pace, state.seconds]
    return (
        [one.tolist() for one in tensors],
        moments,
        snapshots,
        numbers,
        int(state.skipped),
        int(state.skipped_in_a_row),
    )


def test_a_state_comes_back_whole(tmp_path: Path) -> None:
    written, other = state_of(1), state_of(2, step=1, rollbacks=0, micro_batches=1, safe_step=0, seconds=0.0)
    save_checkpoint(tmp_path, written)
    assert content_of(other) != content_of(written)
    assert restore_latest(tmp_path, other) == (7, [])
    assert content_of(other) == content_of(written)


def test_nothing_is_restored_where_nothing_is(tmp_path: Path) -> None:
    state = state_of(1)
    before = content_of(state)
    assert restore_latest(tmp_path / "absent", state) == (None, [])
    assert content_of(state) == before


def write(folder: Path, step: int) -> Path:
    write_checkpoint(folder, step, {"one": {"a.b": torch.tensor([step])}, "none": {}}, TEXT, f"text {step}")
    return folder / f"step-{step:08d}"


def read(folder: Path) -> tuple[object, ...]:
    found: list[object] = []
    notes = read_latest(folder, TEXT, lambda sections, text, where: found.extend((sections, text, where)))
    return notes, *found


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 100, 10):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    notes, sections, text, where = read(tmp_path)
    assert (notes, text, where) == ([], "text 100", tmp_path / "step-00000100")
    assert sections == {"one": {"a.b": torch.tensor([100])}}
    assert storage.committed_metadata(where) == {"step": 100}


def test_the_former_one_is_kept_until_a_new_one_is_whole(tmp_path: Path) -> None:
    write(tmp_path, 1), write(tmp_path, 2)
    with pytest.raises(ValueError, match="serialize"):
        write_checkpoint(tmp_path, 3, {}, TypeAdapter(object), object())
    assert read(tmp_path)[2] == "text 2" and len(list(tmp_path.iterdir())) == 2


def test_what_is_damaged_or_unfinished_is_passed_over_and_said(tmp_path: Path) -> None:
    first, second = write(tmp_path, 1), write(tmp_path, 2)
    content = (second / "state.safetensors").read_bytes()
    (second / "state.safetensors").write_bytes(content[:-1] + b"\7")
    notes, _, text, _ = read(tmp_path)
    what = "a file was changed after it was written"
    assert notes == [f"checkpoint step-00000002 is damaged ({what}); the one before it is used"]
    assert text == "text 1"
    (second / storage.DONE).unlink()
    unfinished = "checkpoint step-00000002 was not finished; the one before it is used"
    assert read(tmp_path)[0] == [unfinished]
    (first / "counters.json").unlink()
    with pytest.raises(DamagedError) as caught:
        read(tmp_path)
    assert caught.value.what.startswith(f"no checkpoint is whole: {unfinished}; checkpoint step-00000001 is damaged (")
    assert (caught.value.where, caught.value.fix) == (str(tmp_path), "remove it to train anew")


def test_moments_are_kept_of_parameters_that_have_some() -> None:
    state = state_of(3)
    kept = moments_of(state.optimizer, state.trained)
    assert {name: list(own) for name, own in kept.items()} == {
        name: ["weight"] for name in ("exp_avg", "exp_avg_sq", "step")
    }
    fresh = state_of(4)
    restore_moments(fresh.optimizer, fresh.trained, kept)
    moments = fresh.optimizer.state[fresh.trained["weight"]]
    assert moments["step"].device.type == "cpu" and moments["step"] == 1
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(moments[name], kept[name]["weight"])
        assert moments[name] is not kept[name]["weight"]
    restore_moments(fresh.optimizer, fresh.trained, {})
    assert fresh.optimizer.state[fresh.trained["weight"]] is moments
