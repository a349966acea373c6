import numpy as np
import pytest
from scipy.special import expit


class SimulatedArms:
    """Right and wrong answers: images of varying difficulty, arms that differ on images, seeds paired over arms.

    Half of a seed's effect is common to all arms. A generator's effect is common to all of its seeds. A fixed arm
    has no random draw: it gives one answer for all seeds.
    """

    seed_sd = 0.5
    generator_sd = 0.0

    def __init__(self, seed, counts=(60, 40, 20, 15, 10, 5), seeds=5, generators=1):
        self.random = np.random.default_rng(seed)
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.num_classes = len(counts)
        self.seeds = seeds
        self.generators = np.arange(seeds) % generators
        self.base = np.linspace(2.0, 0.5, self.num_classes)

    def _logits(self, labels, effect, shared, own):
        return self.base[labels] + effect + 1.5 * shared + 0.5 * own

    def _by_seed(self):
        return self.seed_sd * np.sqrt(0.5) * self.random.normal(size=(self.seeds, self.num_classes))

    def draw(self, effects, generated=(), fixed=()):
        """Correctness (S, N) of one arm an effect, and each arm's chance of being right (N,) over all seeds.

        Args:
            effects: Added to the log odds of a right answer.
            generated: Positions of the arms that feel the generator; their chances leave it out.
            fixed: Positions of the arms that give one answer for all seeds.
        """
        count = len(self.labels)
        shared, common = self.random.normal(size=count), self._by_seed()
        generator = self.generator_sd * self.random.normal(size=(max(self.generators) + 1, self.num_classes))
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(15)
        node_weights = node_weights / node_weights.sum()
        correct, chances = [], []
        for number, effect in enumerate(effects):
            logits = self._logits(self.labels, effect, shared, self.random.normal(size=count))
            if number in fixed:
                chances.append(expit(logits))
                correct.append(np.repeat((self.random.random(count) < chances[-1])[None], self.seeds, axis=0))
                continue
            varying = common + self._by_seed() + (generator[self.generators] if number in generated else 0)
            correct.append(self.random.random((self.seeds, count)) < expit(logits + varying[:, self.labels]))
            chances.append(node_weights @ expit(logits + self.seed_sd * nodes[:, None]))
        return correct, chances

    def balanced(self, values):
        """Mean over classes of the class means."""
        return np.mean([values[self.labels == c].mean() for c in range(self.num_classes)])

    def true_recall(self, effect, generated=False, fixed=False):
        """Recall per class (K,) over all seeds, generators and images that there could be."""
        varying = 0 if fixed else self.seed_sd**2 + generated * self.generator_sd**2
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(61)
        chances = expit(self.base[:, None] + effect + np.sqrt(1.5**2 + 0.5**2 + varying) * nodes)
        return chances @ node_weights / node_weights.sum()

    def true_accuracy(self, effect, generated=False, fixed=False):
        """Balanced accuracy over all seeds, generators and images that there could be."""
        return self.true_recall(effect, generated, fixed).mean()


@pytest.fixture
def simulated_arms():
    return SimulatedArms
