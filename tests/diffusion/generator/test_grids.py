import numpy as np

from diffaug.diffusion.generator.grids import contact_sheet


def test_small_tiles_are_enlarged_and_laid_out_row_by_row() -> None:
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])
    sheet = contact_sheet(pixels, columns=2)
    assert sheet.shape == (2 * 48 + 2, 2 * 48 + 2, 3)
    assert (sheet[:48, :48] == 10).all()
    assert (sheet[:48, 50:] == 20).all()
    assert (sheet[50:, :48] == 30).all()
    assert (sheet[50:, 50:] == 128).all()
    assert contact_sheet(np.zeros((1, 64, 50, 1), np.uint8), columns=4).shape == (64, 4 * 52 - 2, 1)
