"""What is chosen before the test, without test images: the best real arm, and the synthetic images to add to it."""
