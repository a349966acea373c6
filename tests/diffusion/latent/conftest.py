from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from diffaug.diffusion.latent.autoencoder import Autoencoder, open_autoencoder
from diffaug.diffusion.latent.folder import AutoencoderFolder
from tests.diffusion.latent.autoencoders import write_exact, write_random_kl


@pytest.fixture(scope="session")
def exact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exact(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="session")
def kl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_kl(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="session")
def exact(exact_folder: Path) -> Autoencoder:
    return open_autoencoder(AutoencoderFolder.find(exact_folder), "cpu")


@pytest.fixture(scope="session")
def kl(kl_folder: Path) -> Autoencoder:
    return open_autoencoder(AutoencoderFolder.find(kl_folder), "cpu")
