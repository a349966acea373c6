"""The stage that fine-tunes a pretrained pipeline."""
