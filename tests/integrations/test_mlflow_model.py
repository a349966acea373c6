import io
import shutil
from importlib.metadata import version
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from diffaug.configuration.settings import TrackingSettings
from diffaug.diffusion.generator.generator import Generator
from diffaug.diffusion.generator.usual import Usual
from diffaug.integrations.mlflow_model import GeneratorModel
from diffaug.tracking.sender import send_all

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model(saved_model):
    return mlflow.pyfunc.load_model(str(saved_model))


def ask(model, *rows, **params):
    return model.predict(pd.DataFrame(rows, columns=["label", "n"]), params={"num_inference_steps": 2, **params})


def test_each_row_is_answered_with_its_images_in_order(model):
    answer = ask(model, ("cat", 2), ("rare/one", 1), seed=7)
    assert list(answer.columns) == ["label", "index", "seed", "image"]
    assert answer["label"].tolist() == ["cat", "cat", "rare/one"]
    assert answer["index"].tolist() == [0, 1, 0]
    assert answer["seed"].tolist() == [7, 7, 7]
    for content in answer["image"]:
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (8, 8), "L")
    assert len(set(answer["image"])) == 3


def test_an_image_is_what_the_generator_samples(model, tiny_generator):
    answer = ask(model, ("dog", 3), seed=1)
    expected = Generator.load(tiny_generator).sample("dog", range(8), seed=1, num_inference_steps=2)
    for pixels, content in zip(expected, answer["image"], strict=False):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels[..., 0])


def test_an_image_depends_on_nothing_but_seed_class_and_index(model):
    alone, cat = (ask(model, row, seed=3)["image"].tolist() for row in (("dog", 11), ("cat", 1)))
    assert ask(model, ("dog", 11), seed=3)["image"].tolist() == alone
    for n in (1, 2, 9):
        together = ask(model, ("cat", 1), ("dog", n), ("dog", 2), seed=3)["image"].tolist()
        assert together == [*cat, *alone[:n], *alone[:2]]
    assert not set(ask(model, ("dog", 11), seed=4)["image"]) & set(alone)


def test_a_generator_that_only_varies_real_images_serves_no_noise():
    only_varies = GeneratorModel()
    only_varies.generator = SimpleNamespace(usual=Usual(only_varies=True), class_of=str)
    with pytest.raises(MlflowException, match="varies real ones and samples none from noise") as caught:
        only_varies.predict(None, pd.DataFrame({"label": ["dog"], "n": [1]}))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_sampling_parameters_have_effect_and_defaults(model):
    first = ask(model, ("dog", 1))["image"][0]
    guided = [ask(model, ("dog", 1), guidance_scale=scale, num_inference_steps=12)["image"][0] for scale in (1.0, 3.0)]
    assert guided[0] != guided[1]
    assert ask(model, ("dog", 1), num_inference_steps=3)["image"][0] != first
    defaults = model.predict(pd.DataFrame({"label": ["dog"], "n": [1]}))["image"][0]
    assert defaults == ask(model, ("dog", 1), seed=0, guidance_scale=1.0, num_inference_steps=12)["image"][0]


@pytest.mark.parametrize(
    ("row", "params", "message"),
    [
        (("cow", 1), {}, r"no class 'cow'[\s\S]*cat, dog, rare/one"),
        (("0", 1), {}, "no class '0'"),
        (("cat", 0), {}, "n must be 1 to 1000 images of 'cat', not 0"),
        (("cat", 1001), {}, "n must be 1 to 1000"),
        (("cat", 1), {"num_inference_steps": 0}, "num_inference_steps"),
        (("cat", 1), {"guidance_scale": -1.0}, "guidance_scale"),
    ],
)
def test_what_makes_no_sense_is_a_clear_error(model, row, params, message):
    with pytest.raises(MlflowException, match=message) as raised:
        ask(model, ("dog", 1), row, **params)
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_the_model_holds_no_pickle_and_needs_no_build_of_torch(saved_model):
    contents = [path for path in saved_model.rglob("*") if path.is_file()]
    assert not [path for path in contents if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".pyc")]
    assert all(path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05") for path in contents)
    requirements = (saved_model / "requirements.txt").read_text().split()
    assert f"diffaug=={version('diffaug')}" in requirements
    assert f"torch=={version('torch').partition('+')[0]}" in requirements
    assert "+" not in "".join(requirements)


def test_a_changed_artifact_is_refused(saved_model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(saved_model, copy)
    (weights,) = copy.rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Exception, match="changed after it was written"):
        mlflow.pyfunc.load_model(str(copy))


def test_the_logged_model_is_loaded_by_its_alias_which_a_second_one_takes(study, journal, narrator):
    send_all(study, TrackingSettings(), narrator)
    assert narrator.warned == []
    mlflow.set_tracking_uri(f"sqlite:///{study.path}/mlflow.db")
    client = mlflow.MlflowClient()
    loaded = mlflow.pyfunc.load_model("models:/digits' model@champion")
    assert ask(loaded, ("cat", 1))["image"][0]
    made = client.get_model_version_by_alias("digits' model", "champion")
    fit = client.get_run(made.run_id)
    assert fit.info.run_name == "fit"
    (output,) = fit.outputs.model_outputs
    study_run = client.get_run(fit.data.tags["mlflow.parentRunId"])
    assert [shown.model_id for shown in study_run.outputs.model_outputs] == [output.model_id]
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, logged.status.name, logged.source_run_id) == ("generator", "READY", fit.info.run_id)
    params = mlflow.pyfunc.load_model(f"models:/{output.model_id}").metadata.signature.params
    assert params.to_dict()[0]["name"] == "seed"
    journal.log_model("study", study.generator, "generator", registered_name="digits' model", alias="champion")
    send_all(study, TrackingSettings(), narrator)
    assert len(client.search_model_versions()) == 2
    assert client.get_model_version_by_alias("digits' model", "champion").version in (2, "2")
