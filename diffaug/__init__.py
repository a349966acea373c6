"""diffaug: generative augmentation for small, imbalanced image sets, with an honest verdict.

The public names and their types are in `__init__.pyi`; each is imported when it is first used, so that
`import diffaug` loads no torch.
"""

import lazy_loader

from diffaug._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
