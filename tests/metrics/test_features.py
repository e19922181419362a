"""The extractors: real timm and open_clip models, their preprocessing, and errors that come at once."""

import shutil
import time

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from src.errors import UserError
from src.metrics.features import ClipExtractor, DinoExtractor
from src.pocket.make_models import smooth_images


def _images(count: int, size: int = 64) -> list[Image.Image]:
    pixels = ((smooth_images(count, size, 5).permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy()
    return [Image.fromarray(image) for image in pixels]


def test_dino_is_the_normalised_class_token(dino, judges):
    model = timm.create_model(f"local-dir:{judges / 'dino'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    image = _images(1, 96)[0]
    with torch.no_grad():
        expected = model.forward_features(transform(image)[None])[:, 0]
    torch.testing.assert_close(dino.images([image]), expected / expected.norm())


def test_clip_is_as_open_clip_has_it(clip, judges):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{judges / 'clip'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{judges / 'clip'}")(["a red car", "a dog"])
    image = _images(1)[0]
    with torch.no_grad():
        expected_image = model.eval().encode_image(transform(image)[None], normalize=True)
        expected_text = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(clip.images([image]), expected_image)
    torch.testing.assert_close(clip.texts(["a red car", "a dog"]), expected_text)


def test_batches_and_neighbours_do_not_matter(dino, clip):
    images = _images(35)
    for judge in (dino, clip):
        features = judge.images(images)
        assert features.shape[0] == 35
        torch.testing.assert_close(features.norm(dim=1), torch.ones(35))
        torch.testing.assert_close(features[34:], judge.images(images[34:]))


def test_any_size_and_shape_is_taken(dino, clip):
    images = [Image.new("RGB", size, "red") for size in ((64, 64), (33, 200), (640, 31))]
    assert dino.images(images).shape[0] == clip.images(images).shape[0] == 3


def test_autocast_outside_does_not_reach_in(dino):
    image = _images(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dino.images(image)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, dino.images(image))


def test_no_gradients_and_no_dropout(clip):
    assert not clip.texts(["a dog"]).requires_grad
    assert torch.equal(clip.texts(["a dog"]), clip.texts(["a dog"]))


def test_named_dino_takes_a_local_file(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    judge = DinoExtractor(
        model="vit_tiny_patch16_224.augreg_in21k", weights=str(tmp_path / "weights.safetensors"), label="tiny"
    )
    assert torch.equal(judge._model.norm.weight, model.norm.weight)
    assert torch.equal(judge._model.blocks[3].mlp.fc1.weight, model.blocks[3].mlp.fc1.weight)
    assert judge.images(_images(1)).shape == (1, 192)


def test_openai_weights_get_their_activation(tmp_path, monkeypatch):
    """open_clip only warns when OpenAI's weights meet the wrong GELU: scores would be quietly wrong."""
    from src.metrics import features

    monkeypatch.setattr(features, "_from_hub", lambda repository, filename, key: f"{repository}/{filename}")
    settings = features._open_clip_weights("ViT-B-32", "openai")
    assert settings["force_quick_gelu"] is True
    assert settings["pretrained"] == "timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors"
    assert features._open_clip_weights("ViT-B-32", "laion2b_s34b_b79k")["force_quick_gelu"] is False


@pytest.mark.parametrize(
    ("extractor", "settings", "message"),
    [
        (DinoExtractor, {"model": "vit_small_patch16_224.dino"}, "not in the cache"),
        (DinoExtractor, {"model": "vit_small_patch14_dinov2.lvd142m"}, "not in the cache"),
        (ClipExtractor, {"model": "ViT-B-32", "pretrained": "openai"}, "not in the cache"),
        (DinoExtractor, {"model": "vit_smal"}, "no model of timm"),
        (ClipExtractor, {"model": "ViT-B-33"}, "no model of open_clip"),
        (ClipExtractor, {"model": "ViT-B-32", "pretrained": "opanai"}, "one of ViT-B-32's tags: openai"),
        (ClipExtractor, {"model": "ViT-B-32"}, "one of ViT-B-32's tags"),
        (DinoExtractor, {"model": "/nowhere/dino"}, "no such folder"),
        (ClipExtractor, {"model": "nowhere/clip"}, "no such folder"),
        (DinoExtractor, {"model": "vit_small_patch16_224", "weights": "x.pth"}, "no .safetensors file"),
    ],
)
def test_what_cannot_be_had_is_said_in_seconds(extractor, settings, message):
    start = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        extractor(**settings, label="x")
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["", "a/b", "a[b]"])
def test_a_label_that_would_break_metric_names_is_refused(judges, label):
    with pytest.raises(UserError, match="label"):
        DinoExtractor(model=str(judges / "dino"), label=label)


def test_incomplete_folder(judges, tmp_path):
    for name, extractor in (("dino", DinoExtractor), ("clip", ClipExtractor)):
        folder = shutil.copytree(judges / name, tmp_path / name)
        next(folder.glob("*.safetensors")).unlink()
        with pytest.raises(UserError, match=r"lacks .*model\.safetensors"):
            extractor(model=str(folder), label="x")


@pytest.mark.parametrize("damage", ["truncated", "wrong shapes"])
def test_damaged_weights(judges, tmp_path, damage):
    for name, extractor in (("dino", DinoExtractor), ("clip", ClipExtractor)):
        folder = shutil.copytree(judges / name, tmp_path / name)
        file = next(folder.glob("*.safetensors"))
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        else:
            save_file({key: torch.zeros(*value.shape, 2) for key, value in load_file(file).items()}, file)
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            extractor(model=str(folder), label="x")
        assert "\n" not in str(caught.value)
