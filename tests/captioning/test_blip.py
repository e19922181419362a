"""BLIP, tiny and of random weights: from a folder to captions."""

import inspect
import json
import shutil

import pytest

from src.captioning.base import Subject
from src.captioning.blip import BlipCaptioner
from src.data.data_manager import PROJECT_ROOT
from src.errors import UserError
from tests.captioning.tiny_blip import WORDS, make_tiny_blip
from tests.data.pictures import noise_image

TOY = Subject(placeholder="sksToy", class_word="toy")


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return make_tiny_blip(tmp_path_factory.mktemp("models") / "tiny-blip")


def captions(blip, images, **options):
    captioner = BlipCaptioner(model=str(blip), device="cpu", max_new_tokens=6, **options)
    return describe(captioner, images)


def describe(captioner, images):
    return captioner.describe([captioner.prepare(image) for image in images])


def test_captions_of_many_motifs(blip):
    images = [noise_image(number, size=(60, 20 + number)) for number in range(4)]
    captioner = BlipCaptioner(model=str(blip), device="cpu", max_new_tokens=6)
    found = describe(captioner, images)
    assert captioner.label == "blip:tiny-blip"
    assert len(set(found)) > 1  # it looks at the images
    assert all(set(caption.split()) <= set(WORDS.split()) and len(caption.split()) == 6 for caption in found)
    # The same words whatever stands beside it in the batch.
    assert [describe(captioner, [image])[0] for image in images] == found


def test_captions_of_a_subject(blip):
    images = [noise_image(number) for number in range(2)]
    found = captions(blip, images, subject=TOY)
    # What it goes on from are words that it knows; what is written is the placeholder.
    assert found == [
        caption.replace("a photo of a toy", "a photo of sksToy toy", 1)
        for caption in captions(blip, images, prefix="a photo of a toy")
    ]
    assert all(caption.startswith("a photo of sksToy toy ") for caption in found)
    assert captions(blip, images, subject=TOY, prefix="near {subject}")[0].startswith("near sksToy toy ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "a photo"}, r"captioner\.prefix='a photo' lacks \{subject\}"),
        ({"prefix": "{placeholder} {subject}"}, r"unknown field \{placeholder\}"),
        ({"prefix": "a {subject}", "subject": None}, r"unknown field \{subject\}"),
        ({"prefix": "  ", "subject": None}, "is empty"),
        ({"batch_size": 0}, r"captioner\.batch_size=0"),
        ({"max_new_tokens": 0}, r"captioner\.max_new_tokens=0"),
        ({"device": "tpu"}, r"captioner\.device=tpu is not one of: auto, cuda"),
        ({"model": "/nowhere/blip"}, "there is no such folder"),
        ({"model": "nobody/absent"}, r"not in the local cache.*point captioner\.model to a local folder"),
    ],
)
def test_options_that_are_refused(blip, options, message):
    with pytest.raises(UserError, match=message):
        BlipCaptioner(**{"model": str(blip), "subject": TOY, "device": "cpu", **options})


def test_the_default_is_the_one_that_the_hub_has_as_safetensors():
    default = inspect.signature(BlipCaptioner).parameters["model"].default
    assert default == "Salesforce/blip-image-captioning-large"
    assert f"model: {default} #" in (PROJECT_ROOT / "conf/captioner/blip.yaml").read_text()


def test_folders_that_are_no_blip(blip, tmp_path):
    def refused(name, message, *, change):
        folder = shutil.copytree(blip, tmp_path / name)
        change(folder)
        with pytest.raises(UserError, match=message):
            BlipCaptioner(model=str(folder), device="cpu")

    def other_kind(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "blip-2"}))

    def fewer_weights(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights.pop("vision_model.post_layernorm.weight")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    refused("kind", "of the kind blip-2, not blip", change=other_kind)
    refused("config", "no readable config.json", change=lambda folder: (folder / "config.json").unlink())

    def pickled(folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    remedy = r"^captioner\.model: .*no safetensors.*captioner\.model=Salesforce/blip-image-captioning-large"
    refused("weights", remedy, change=lambda folder: (folder / "model.safetensors").unlink())
    refused("pickled", remedy, change=pickled)
    refused(
        "cut",
        "cannot be loaded",
        change=lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99),
    )
    refused("fewer", "lacks 1 weights", change=fewer_weights)
