import torch

from diffaug.diffusion.sampling.thresholding import PERCENTILE, thresholded


def test_an_image_in_range_stays() -> None:
    image = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    assert torch.equal(thresholded(image), image)


def test_an_image_beyond_the_range_is_divided_by_its_percentile_and_others_are_not() -> None:
    plain, stretched = torch.linspace(-0.9, 0.9, 1000), torch.linspace(-2, 2, 1000)
    both = torch.stack([plain, stretched]).reshape(2, 1, 10, 100)
    found = thresholded(both)
    limit = 2 * PERCENTILE
    assert torch.equal(found[0], both[0])
    torch.testing.assert_close(found[1].flatten(), stretched.clamp(-limit, limit) / limit, rtol=0, atol=2e-3)
    assert found.abs().max() <= 1


def test_a_few_extreme_values_are_clipped_and_the_rest_stays() -> None:
    image = torch.full((1, 1, 50, 50), 0.5)
    image[0, 0, 0, :5] = 9.0
    found = thresholded(image)
    assert (found == 0.5).sum() == 2495 and (found == 1).sum() == 5
