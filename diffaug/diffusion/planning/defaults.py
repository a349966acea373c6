"""Numbers that a training is planned with, and where each one comes from.

They are not settings, because hardly anyone needs to change them. Read them as `defaults.NAME`: benchmarks and tests
replace them here. "Digits" and "fashion-lt" are measurements in `benchmarks/results/ablations*.json`.
"""

# How images are drawn and labeled.
CLASS_TEMPERATURE = 0.5
"""A class of n images is drawn in proportion to n to this power. Digits: KID 0.004; 0.030 at 1, 0.001 at 0."""
MAX_REPEATS_PER_IMAGE, EXPECTED_VIEWS = 200, 100
"""An image of a rare class is drawn at most 200 times while all are drawn 100 times on average.

The first was chosen to bound memorization; the second is about what generalizes best on digits, see `length`.
"""
LABEL_DROPOUT = 0.1
"""Fraction of labels hidden, which makes guidance possible. As in Ho & Salimans 2022 (arXiv 2207.12598)."""
MAX_UNLABELED_SHARE = 0.5
"""Largest share of unlabeled images in a batch, so that labels keep half of the training. Chosen by hand."""

# How images are augmented.
AUGMENTATION_PROBABILITY = 0.12
"""Of each transformation, where images are seen often. EDM's value for CIFAR-10 (arXiv 2206.00364)."""
AUGMENTATION_VIEWS = 50
"""Views per image from which on a training is augmented. Chosen by hand; digits show no difference."""
AUGMENTATION_STRENGTH = 0.2
"""Factor on all magnitudes. A full rotation would exchange labels such as 6 and 9."""
AUGMENTATION_MIRRORS = False
"""Mirrored digits and letters are other classes or none."""

# What is minimized.
UNCERTAINTY_WEIGHTING = True
"""Weigh noise levels by their learned difficulty (Karras et al. 2024, arXiv 2312.02696). Digits: no difference."""

# How long a training is.
VIEWS_OF_COMMONEST_CLASS = 150
"""Most views per image of the largest class. As long as earlier trainings on digits, fashion-lt and flowers took."""
MIN_IMAGES_SEEN_GRAY, MIN_IMAGES_SEEN_RGB = 102_400, 204_800
"""Images seen that are always allowed. Shapes are clear then on digits, fashion-lt and, RGB, flowers."""
MAX_MINUTES = 30.0
"""The most that a fit takes unless the user sets another limit. Chosen by hand."""

# Which network, batch and way of computing.
ASSUMED_MINUTES = 10.0
"""What network and compilation are chosen for before the speed is known."""
LONG_CPU_MINUTES, SHORT_CUDA_MINUTES, LONG_CUDA_MINUTES = 120, 5, 120
FEW_IMAGES, MANY_IMAGES = 2_000, 20_000
"""Where another preset begins. Digits: the medium network needs four times the time for the same quality."""
MIN_BATCH_SIZE, ENOUGH_STEPS = 16, 4_000
"""A CPU halves its batch down to this while a training has fewer steps. Digits: KID 0.057 at twice the batch."""
MIN_MINUTES_TO_COMPILE = 20
"""Compiling takes a minute or two."""
WORTHWHILE_SPEEDUP, KEPT_SPEED = 1.1, 0.8
"""Another way of computing must be this much faster; a smaller batch must keep this fraction of the speed."""

# How memorization is monitored.
COPY_CHECK_FRACTION = 0.02
"""Fraction of the training time spent on checking for copies."""
