"""Which file has which label, split, group and mask, before anything is decoded."""
