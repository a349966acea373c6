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
"""Largest distance of two registered thumbnails that show the same; set by hand, no measurement is recorded."""

NEAR_DUPLICATE_RATIO = 0.2
"""Largest share of the distance to the least similar candidate, which keeps parts on one background apart; as above."""

WORTH_REGISTERING = 0.5
"""Search distance above which two images are not registered, to save time; as above."""

LEAST_SUPPORT = 10
"""Matched keypoints in distinct places that make it worth comparing two images pixel by pixel.

This and the next thresholds were chosen on made images and on a random half of flowers, of neu-lt (`train` and
`unlabelled`) and of the `train` parts of cifar10-lt, fashion-lt and digits; `benchmarks/near_duplicates.py` confirms
them on the other half of the first two. Distinct images of flowers have at most 7 such
keypoints, copies at least 15 in 95 of 100.
"""

LEAST_OVERLAP = 0.4
"""Share of the smaller content that two images must both show: a convention. An enlarged part shares all of itself."""

LEAST_CORRELATION = 0.4
"""Correlation of aligned images that show the same, without the mean and contrast of the surroundings.

Copies have more than 0.5 in 99 of 100 cases, but for exposures that clip most of the image.
"""

LEAST_CORRELATION_CLIPPED = 0.75
"""The same where one image is shown at twice its exposure: what that clips must be clipped in the other one too."""

DIFFERENCE = 0.45
"""Largest difference, see `Agreement`, of aligned images that show the same.

It is below 0.45 for 95 of 100 copies, and above 0.6 for 99 of 100 pairs of made parts on one background.
"""

GAP = 0.4
"""Largest share of that difference in the difference to the next image, which does not show the same.

Made parts on one background whose differing part covers one percent of the image set it.
"""

ROUNDING = 1e-3
"""Distance below which two images count as equal in float32."""

COPY_FALSE_POSITIVE_RATE = 0.0025
"""Share of new images that the filters `copy` and `duplicate` each may reject.

The ratio below which a sample is a copy is calibrated from it, between `COPY_RATIO` and `NEW_RATIO`: see
`copies.copy_threshold`. No measurement of the rate is recorded.
"""
