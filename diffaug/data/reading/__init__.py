"""Every image is decoded once, in parallel: to small whole pictures on the disk, and to pixels of the working size."""
