"""When two images show the same: every threshold, and where its value comes from."""

COPY_RATIO = 1 / 3
"""An image is a copy below this ratio of nearest to second-nearest distance (Gu et al. 2023, arXiv 2310.02664)."""

NEW_RATIO = 2 / 3
"""Highest ratio that counts as a copy if there are too few images to calibrate: twice `COPY_RATIO`, by convention."""

COPY_LIMIT = 0.05
"""Share of copies in excess of which a generator or a pool is reported: a convention."""

DUPLICATE_SHARE_OF_DISTANCE = 2 / 3
"""Share of the distances between real images below which two synthetic images of a class show the same: a convention.

A pool can hold many times more images than a class has real ones, and the more there are, the nearer the nearest one.
"""

NEAR_DUPLICATE_DISTANCE = 0.15
"""Largest distance of two registered images that show one picture; set by hand, no measurement is recorded."""

NEAR_DUPLICATE_RATIO = 0.2
"""Largest share of the distance to the least similar candidate, which keeps parts on one background apart; as above."""

WORTH_REGISTERING = 0.5
"""Search distance above which two images are not registered, to save time; as above."""

ROUNDING = 1e-3
"""Distance below which two images count as equal in float32."""

COPY_FALSE_POSITIVE_RATE = 0.0025
"""Share of new images that the filters `copy` and `duplicate` each may reject.

The ratio below which a sample is a copy is calibrated from it, between `COPY_RATIO` and `NEW_RATIO`: see
`copies.copy_threshold`. No measurement of the rate is recorded.
"""
