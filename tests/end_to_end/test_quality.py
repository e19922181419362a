"""Whether training teaches anything: the pocket learns a toy, keeps what it knew, and needs right captions.

Plumbing that is whole and a model that learns nothing, or learns it at the cost of everything else, would fail
here and nowhere else. Figures at full length are in docs/pocket.md.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from src.data.images import load_image
from src.metrics.features import ClipExtractor, DinoExtractor
from src.metrics.scores import mean_cosines
from src.models.base import DiffusionModel
from src.models.load import load_model
from src.pocket.demo_subject import photo_list
from src.pocket.measuring.base import draw_answers, draw_prompts, ranked_first
from src.pocket.measuring.finetune import UNSEEN_PLACES, Gap, Subject, adapted, divide, draw_subject
from src.pocket.measuring.judges import retrieval, subject_separation
from src.pocket.measuring.questions import Question, place_questions, questions
from src.pocket.measuring.report import weights_digest
from tests.end_to_end.workbench import Bench

pytestmark = pytest.mark.timeout(900)  # minutes of training, on a machine that may be busy
NUM_OTHERS = 32
NUM_STEPS = 80
NUM_DRAWING_STEPS = 10
PRIOR = ("trainer.prior_loss_weight=1", "dataset.class_images.num=64")
CLASS_PROMPTS = (
    "a photo of a toy",
    "a photo of a toy on the beach",
    "a photo of a toy in the snow",
    "a toy on a sofa",
)


@pytest.fixture(scope="module")
def pocket(bench: Bench) -> Path:
    return bench.root / "assets" / "pocket"


@pytest.fixture(scope="module")
def dino(pocket: Path) -> DinoExtractor:
    return DinoExtractor(model=str(pocket / "dino"), label="pocket")


@pytest.fixture(scope="module")
def clip(pocket: Path) -> ClipExtractor:
    return ClipExtractor(model=str(pocket / "clip"), label="pocket")


@pytest.fixture(scope="module")
def base(pocket: Path) -> DiffusionModel:
    return load_model(str(pocket / "sd15"))


@pytest.fixture(scope="module")
def others() -> list[Question]:
    """Prompts without the toy, half of them combinations that the base model never saw."""
    return questions(NUM_OTHERS // 2, held_out=False) + questions(NUM_OTHERS // 2, held_out=True)


@pytest.fixture(scope="module")
def subject_of(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Subject]:
    def get(*, shuffled: bool) -> Subject:
        demo = bench.root / "data" / "demo"
        return divide(demo, tmp_path_factory.mktemp("photos") / "train", shuffled=shuffled)

    return get


@pytest.fixture(scope="module")
def tuned(bench: Bench, subject_of: Callable[..., Subject], pocket: Path) -> Callable[..., DiffusionModel]:
    """Fine-tunes on the photos of all but four places, with right or with shuffled captions."""
    made: dict[tuple[bool, bool], DiffusionModel] = {}

    def get(*, shuffled: bool = False, prior: bool = False) -> DiffusionModel:
        if (shuffled, prior) not in made:
            folder = subject_of(shuffled=shuffled).train_folder
            name = f"quality_{shuffled}_{prior}"
            run = bench.train(
                name,
                f"dataset.path={folder}",
                f"trainer.max_steps={NUM_STEPS}",
                "trainer.validate_every=null",
                *(PRIOR if prior else ()),
            )
            made[shuffled, prior] = adapted(pocket / "sd15", run)
        return made[shuffled, prior]

    return get


def share_first(clip: ClipExtractor, asked: Sequence[Question], model: DiffusionModel) -> float:
    verdicts = ranked_first(clip, asked, draw_answers(model, asked, num_steps=NUM_DRAWING_STEPS))
    return sum(verdicts) / len(verdicts)


def place_share(clip: ClipExtractor, subject: Subject, model: DiffusionModel) -> float:
    """How many pictures of the toy show the place that was asked for, among all places."""
    images = draw_subject(model, subject.prompts, num_steps=NUM_DRAWING_STEPS)
    each = len(images) // len(subject.prompts)
    asked = [question for question in place_questions(UNSEEN_PLACES) for _ in range(each)]
    verdicts = ranked_first(clip, asked, images)
    return sum(verdicts) / len(verdicts)


def test_the_figures_on_the_page_are_of_the_weights_that_ship(bench, pocket) -> None:
    figures = json.loads((bench.root / "docs" / "pocket_figures.json").read_text())
    assert {part["weights"] for part in figures.values()} == {weights_digest(pocket)}


@pytest.mark.slow
def test_the_base_model_draws_what_it_is_asked_for(base, clip, others) -> None:
    assert share_first(clip, others, base) > 0.75, "chance is 1 in 16"


@pytest.mark.slow
def test_the_judges_know_what_they_judge(bench, clip, dino) -> None:
    photos = [load_image(bench.root / "data" / "demo" / photo.name) for photo in photo_list()]
    assert subject_separation(dino, photos)["roc_auc"] > 0.95
    assert retrieval(clip, num_groups=2)["top_1"] > 0.9


def test_the_judges_share_no_weights_with_the_generator(pocket) -> None:
    def large(folder: Path) -> set[bytes]:
        files = sorted(folder.rglob("*.safetensors"))
        assert files
        tensors = (tensor for file in files for tensor in load_file(file).values())
        return {tensor.numpy().tobytes() for tensor in tensors if tensor.numel() > 100}

    generator, clip, dino = (large(pocket / name) for name in ("sd15", "clip", "dino"))
    assert generator.isdisjoint(clip | dino)
    assert clip.isdisjoint(dino)


def test_a_fine_tune_closes_part_of_the_gap_to_the_photos(base, tuned, dino, subject_of) -> None:
    subject = subject_of(shuffled=False)
    before, after = (
        draw_subject(model, subject.prompts, num_steps=NUM_DRAWING_STEPS) for model in (base, tuned())
    )
    gap = Gap.between(dino, before, subject.unseen)
    closed = gap.closed(dino.images(after))
    assert gap.ceiling - gap.floor.mean() > 0.15
    assert closed.mean() > 0.35


@pytest.mark.slow
def test_a_fine_tune_keeps_other_prompts(base, tuned, clip, others) -> None:
    assert share_first(clip, others, tuned()) > share_first(clip, others, base) - 0.13


@pytest.mark.slow
def test_a_fine_tune_with_shuffled_captions_scores_worse(tuned, clip, subject_of) -> None:
    subject = subject_of(shuffled=False)
    right, wrong = (place_share(clip, subject, tuned(shuffled=shuffled)) for shuffled in (False, True))
    assert right > 0.7
    assert wrong < right - 0.15


@pytest.mark.slow
def test_prior_preservation_keeps_what_the_class_looked_like(base, tuned, dino, subject_of) -> None:
    """Without it "a toy" turns into the subject."""
    photos = dino.images(subject_of(shuffled=False).unseen)
    before, without, preserved = (
        dino.images(draw_prompts(model, CLASS_PROMPTS, num_images=8, num_steps=NUM_DRAWING_STEPS))
        for model in (base, tuned(), tuned(prior=True))
    )
    drift = [(features * before).sum(dim=1).mean().item() for features in (without, preserved)]
    likeness = [mean_cosines(features, photos).mean().item() for features in (before, without, preserved)]
    assert drift[1] > drift[0] + 0.02, "nearer to the base model's pictures from the same noise"
    assert likeness[2] < likeness[1] - 0.02, "and farther from the subject"
