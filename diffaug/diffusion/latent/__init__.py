"""Diffusion on the latents of a frozen autoencoder that lies on the disk."""
