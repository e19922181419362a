"""Class images that the base model draws: kept, the same whatever is asked for, and mended."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
from PIL import Image

from src.errors import UserError
from src.files import sha256_file
from src.inference import class_images
from src.inference.class_images import ClassImageRecipe, ClassImageStore
from src.inference.grids import read_params
from src.models.load import load_model


@pytest.fixture(scope="module")
def model(pocket_sd15):
    return load_model(str(pocket_sd15))


@pytest.fixture
def recipe(model):
    return ClassImageRecipe(
        base_hash=model.base_hash,
        precision="float32",
        prompt="a photo of a toy",
        num_steps=1,
        guidance_scale=5.0,
        scheduler="dpmpp_2m",
        seed=0,
        width=32,
        height=32,
        batch_size=2,
    )


@pytest.fixture
def num_drawn(monkeypatch):
    """How many images were drawn, call by call."""
    counts = []
    generate = class_images.generate_planned

    def counting(model, planned, **settings):
        counts.append(len(planned))
        return generate(model, planned, **settings)

    monkeypatch.setattr(class_images, "generate_planned", counting)
    return counts


def draw(store, model, num_images):
    for group in store.missing_groups(num_images):
        store.draw(model, group)
    return [image.sha256 for _, image in sorted(store.find(num_images).items())]


def test_an_image_is_the_same_however_many_are_asked_for(model, recipe, tmp_path):
    few, many = (ClassImageStore(recipe, tmp_path / name) for name in ("few", "many"))
    three, five = draw(few, model, 3), draw(many, model, 5)
    assert len(set(five)) == 5
    assert five[:3] == three
    assert draw(few, model, 5) == five


def test_a_second_start_draws_nothing(model, recipe, tmp_path, num_drawn):
    store = ClassImageStore(recipe, tmp_path)
    drawn = draw(store, model, 3)
    assert num_drawn == [2, 2]
    assert draw(ClassImageStore(recipe, tmp_path), model, 3) == drawn
    assert num_drawn == [2, 2]
    # The last group was drawn in full, so that a fourth one is there already.
    assert len(draw(store, model, 4)) == 4
    assert num_drawn == [2, 2]


@pytest.mark.parametrize("harm", ["flipped byte", "cut", "gone", "other content"])
def test_damaged_images_are_drawn_again_and_sound_ones_kept(model, recipe, tmp_path, num_drawn, harm):
    store = ClassImageStore(recipe, tmp_path)
    drawn = draw(store, model, 4)
    found = store.find(4)
    before = {number: image.path.stat().st_mtime_ns for number, image in found.items()}
    path = found[2].path
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "other content":
        path.write_bytes(found[1].path.read_bytes())
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flipped byte" else content[:-20])
    assert store.find(4).keys() == {0, 1, 3}
    assert draw(store, model, 4) == drawn
    assert num_drawn == [2, 2, 2]
    after = {number: image.path.stat().st_mtime_ns for number, image in store.find(4).items()}
    assert {number for number in before if before[number] != after[number]} == {2}
    assert len(list(store.folder.glob("*.png"))) == 4


def test_what_they_depend_on_is_in_the_name_of_the_folder_and_beside_them(model, recipe, tmp_path):
    store = ClassImageStore(recipe, tmp_path)
    draw(store, model, 1)
    written = json.loads((store.folder / "recipe.json").read_text())
    assert ClassImageRecipe(**written) == recipe
    image = store.find(1)[0]
    params = read_params(image.path)
    assert params["prompt"] == "a photo of a toy"
    assert params["model_hash"] == model.base_hash[:16]
    assert Image.open(image.path).size == (32, 32)
    others = [
        replace(recipe, **{name: value * 2 if isinstance(value, str) else value + 8})
        for name, value in written.items()
    ]
    folders = {other.folder(tmp_path) for other in [recipe, *others]}
    assert len(folders) == len(written) + 1


def test_folders_from_before_long_prompts_keep_their_names(recipe, tmp_path):
    parts = {name: value for name, value in asdict(recipe).items() if name != "num_chunks"}
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    assert recipe.folder(tmp_path).name == name


def test_an_image_that_another_job_removes_meanwhile_is_missing(model, recipe, tmp_path, monkeypatch):
    """That job found it damaged and is about to draw it again."""
    store = ClassImageStore(recipe, tmp_path)
    draw(store, model, 2)

    def too_late(path):
        if path.name.startswith("000001"):
            path.unlink()
        return sha256_file(path)

    monkeypatch.setattr(class_images, "sha256_file", too_late)
    assert store.find(2).keys() == {0}


def test_two_jobs_at_once_draw_each_group_once(pocket_sd15, model, recipe, tmp_path, num_drawn):
    models = [model, load_model(str(pocket_sd15))]

    def job(each):
        return draw(ClassImageStore(recipe, tmp_path), each, 6)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(job, models)
    assert one == other
    assert num_drawn == [2, 2, 2]


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(model, recipe, tmp_path):
    (tmp_path / "class_images").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot keep class images .* set paths\.cache_dir"):
        ClassImageStore(recipe, tmp_path).draw(model, 0)
