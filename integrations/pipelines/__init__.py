"""Pretrained diffusers pipelines on disk: checked, loaded, fine-tuned, and sampled as a generator."""
