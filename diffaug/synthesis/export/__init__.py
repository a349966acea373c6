"""The images in the formats of other libraries."""
