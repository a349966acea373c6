from functools import partial

import torch
from safetensors.torch import save_file

from diffaug.classifiers.fit import NetworkClassifier
from diffaug.classifiers.identity import identity_of
from diffaug.classifiers.library import QUICK_UPDATES, classifier_by_name, recipe_from_settings
from diffaug.classifiers.networks import resnet_32, small_cnn
from diffaug.classifiers.training_set import TrainingRecipe, default_updates
from diffaug.configuration.evaluation import EvaluationSettings


def test_settings_name_the_classifier_and_the_recipe():
    settings = EvaluationSettings(classifier="resnet-32", optimizer="sgd", horizontal_flip=True)
    classifier = classifier_by_name(settings)
    assert classifier == NetworkClassifier(resnet_32, "resnet-32")
    recipe = recipe_from_settings(settings, 500)
    assert recipe.updates == default_updates(500)
    assert (recipe.optimizer, recipe.horizontal_flip) == ("sgd", True)
    assert recipe_from_settings(EvaluationSettings(max_steps=7), 500) == TrainingRecipe(7)
    quick = EvaluationSettings(quick=True)
    assert recipe_from_settings(quick, 500).updates == QUICK_UPDATES < default_updates(500)
    assert recipe_from_settings(quick.model_copy(update={"max_steps": 700}), 500).updates == 700


def test_weights_are_part_of_the_name(tmp_path):
    names = {"small-cnn"}
    for seed in range(2):
        torch.manual_seed(seed)
        file = tmp_path / "weights.safetensors"
        save_file(small_cnn(1, 3, (8, 8)).state_dict(), file)
        names.add(classifier_by_name(EvaluationSettings(checkpoint=str(file))).name)
    assert len(names) == 3


def test_a_factory_of_the_users_is_named_by_its_source():
    class Factory:
        def __call__(self, *given):
            return small_cnn(*given)

    names = [NetworkClassifier.of_factory(factory).name for factory in (small_cnn, small_cnn, resnet_32, Factory())]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("small_cnn ")
    assert "Factory " in names[3]
    assert len({identity_of(partial(small_cnn, channels)) for channels in (1, 1, 3)}) == 2


def test_functions_without_source_are_distinguished_by_their_code():
    def compiled(text):
        names = {}
        exec(text, names)
        return identity_of(names["train"])

    first = "def train(data):\n    return [step for step in range(3) if step in {'a', 'b'}]"
    assert compiled(first) == compiled(first)
    changes = [("3", "4"), ("'b'", "'c'"), ("range", "list")]
    assert len({compiled(first), *(compiled(first.replace(*change)) for change in changes)}) == 4
