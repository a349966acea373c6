"""Local features: points that are found again after an image was turned, sheared, zoomed, mirrored or exposed anew."""
