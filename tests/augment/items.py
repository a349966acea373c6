from typing import Any

from torch.utils.data import Dataset


class Items(Dataset):
    """Items whose reading is counted; those that are functions are called. Keyword arguments become attributes."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items, self.reads = items, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        item = self.items[index]
        return item() if callable(item) else item
