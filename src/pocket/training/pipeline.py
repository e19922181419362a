"""The stages by name: what each needs of the earlier ones, how it is trained, and where its result lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from src.files import sha256_file
from src.pocket.make_models import RESOLUTION, make_scheduler
from src.pocket.tokenizer import write_tokenizer
from src.pocket.training.cards import CARDS, write_card
from src.pocket.training.clip import CLIP_CONTEXT, train_clip
from src.pocket.training.code import code_digest
from src.pocket.training.denoiser import EncodedWorld, TextToNoise, encoded, make_model, train_denoiser
from src.pocket.training.dino import train_dino
from src.pocket.training.export import draw_samples, export_clip, export_dino, export_generator
from src.pocket.training.stage import Stage
from src.pocket.training.vae import train_decoder, train_vae
from src.pocket.world.world_set import TRAIN_SEED, Kind, WorldSet, joined, open_set, render_set

NUM_SEEN, NUM_HELD_OUT, NUM_ELSEWHERE, NUM_TOYS = 48_000, 6_000, 20_000, 16_000
_SEEN, _HELD_OUT, _ELSEWHERE, _TOYS = (f"world/{kind}.json" for kind in get_args(Kind))
_WORDS, _VAE = "tokenizer/vocab.json", "vae/model/diffusion_pytorch_model.safetensors"
_DENOISER = (
    "denoiser/unet/diffusion_pytorch_model.safetensors",
    "denoiser/text_encoder/model.safetensors",
)
# The code that decides what a stage leaves; src/pocket/dvc.yaml names the same files.
_ALL = tuple(f"src/pocket/{name}.py" for name in ("make_models", "training/batches", "training/stage"))
CODE: Mapping[str, tuple[str, ...]] = {
    "vae": (*_ALL, "src/pocket/training/vae.py"),
    "decoder": (*_ALL, "src/pocket/training/vae.py"),
    "denoiser": (*_ALL, "src/pocket/training/denoiser.py"),
    "toys": (*_ALL, "src/pocket/training/denoiser.py"),
    "clip": (*_ALL, "src/pocket/training/clip.py"),
    "dino": (*_ALL, "src/pocket/training/dino.py"),
}
PLANS: Mapping[str, Mapping[str, Any]] = {
    "vae": {"steps": 7500, "batch_size": 8, "lr": 1e-3, "warmup_steps": 50, "weight_decay": 0.0},
    "decoder": {"steps": 2500, "batch_size": 8, "lr": 5e-4, "warmup_steps": 50, "weight_decay": 0.0},
    "denoiser": {"steps": 5000, "batch_size": 32, "lr": 6e-4},
    "toys": {"steps": 7200, "batch_size": 32, "lr": 4e-4, "warmup_steps": 100, "cycle_steps": 2400},
    "clip": {"steps": 1400, "batch_size": 128, "lr": 2e-3, "weight_decay": 0.05, "ema_decay": 0.99},
    "dino": {"steps": 900, "batch_size": 48, "lr": 1e-3, "weight_decay": 0.05, "ema_decay": None},
}


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folder in which all stages leave their checkpoints and results."""

    folder: Path

    @property
    def device(self) -> torch.device:
        """A GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def stage(self, name: str, *builds_on: str) -> Stage:
        """A stage that works in a folder of its own.

        Args:
            name: of the stage.
            builds_on: files that it reads of earlier ones; it refuses to go on with others.
        """
        digest = f"{code_digest(*CODE[name])} {self.digest(*builds_on)}"
        return Stage(name=name, folder=self.folder / name, builds_on=digest, **PLANS[name])

    def digest(self, *files: str) -> str:
        """What the given files hold, in short."""
        return " ".join(sha256_file(self.folder / file) for file in files)

    def world(self, kind: Kind = "seen") -> WorldSet:
        """Rendered pictures."""
        return open_set(self.folder / "world" / f"{kind}.npy", seed=TRAIN_SEED, kind=kind)

    def render(self, *kinds: Kind) -> None:
        """Renders sets of pictures that are not there yet."""
        nums = {"seen": NUM_SEEN, "held_out": NUM_HELD_OUT, "elsewhere": NUM_ELSEWHERE, "toys": NUM_TOYS}
        folder = self.folder / "world"
        folder.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            path = folder / f"{kind}.npy"
            render_set(path, num=nums[kind], size=RESOLUTION, seed=TRAIN_SEED, kind=kind)

    def vae(self) -> AutoencoderKL:
        """The trained VAE, on the device."""
        return AutoencoderKL.from_pretrained(self.folder / "vae" / "model").to(self.device).eval()

    def tokenizer(self) -> CLIPTokenizer:
        """The vocabulary of all stages that read captions."""
        folder = self.folder / "tokenizer"
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer


def make_world(shop: Workshop) -> None:
    """Renders the training pictures."""
    shop.render(*get_args(Kind))


def make_tokenizer(shop: Workshop) -> None:
    """Learns the vocabulary."""
    write_tokenizer(shop.folder / "tokenizer")


def make_vae(shop: Workshop) -> None:
    """Trains the VAE."""
    plan = shop.stage("vae", _SEEN)
    train_vae(plan, shop.world(), device=shop.device).save_pretrained(plan.folder / "model")


def make_decoder(shop: Workshop) -> None:
    """Trains the VAE's decoder on, with toys."""
    plan = shop.stage("decoder", _SEEN, _TOYS, _VAE)
    trained = train_decoder(plan, shop.vae(), shop.world(), shop.world("toys"), device=shop.device)
    trained.save_pretrained(plan.folder / "model")


def make_denoiser(shop: Workshop) -> None:
    """Trains the UNet and the text encoder that it reads."""
    plan = shop.stage("denoiser", _SEEN, _WORDS, _VAE)
    tokenizer, world = shop.tokenizer(), _seen(shop)
    model = make_model(
        tokenizer, latent_channels=world.means.shape[1], latent_size=world.means.shape[-1], seed=plan.seed
    )
    trained = train_denoiser(
        plan, model, world, tokenizer=tokenizer, scheduler=make_scheduler(), device=shop.device
    )
    trained.save(plan.folder)


def make_toys(shop: Workshop) -> None:
    """Trains the pair on: half of what it sees are toys of random parts from now on."""
    plan = shop.stage("toys", _SEEN, _TOYS, _WORDS, _VAE, *_DENOISER)
    toys = encoded(
        plan.folder / "latents.pt",
        shop.vae(),
        shop.world("toys"),
        builds_on=shop.digest(_TOYS, _VAE),
        device=shop.device,
    )
    trained = train_denoiser(
        plan,
        TextToNoise.load(shop.folder / "denoiser"),
        _seen(shop),
        also=toys,
        tokenizer=shop.tokenizer(),
        scheduler=make_scheduler(),
        device=shop.device,
    )
    trained.save(plan.folder)


def _seen(shop: Workshop) -> EncodedWorld:
    """Both stages of the denoiser see these latents."""
    return encoded(
        shop.folder / "denoiser" / "latents.pt",
        shop.vae(),
        shop.world(),
        builds_on=shop.digest(_SEEN, _VAE),
        device=shop.device,
    )


def make_clip(shop: Workshop) -> None:
    """Trains the judge of prompts; it knows the combinations that the generator never saw, to judge them."""
    plan = shop.stage("clip", _SEEN, _HELD_OUT, _WORDS)
    tokenizer = shop.tokenizer()

    def token_ids(texts: Sequence[str]) -> Tensor:
        ids: Tensor = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=CLIP_CONTEXT, return_tensors="pt"
        ).input_ids
        return ids

    trained = train_clip(
        plan,
        joined(shop.world(), shop.world("held_out")),
        tokenizer=token_ids,
        vocab_size=len(tokenizer),
        context_length=CLIP_CONTEXT,
        device=shop.device,
    )
    torch.save(trained.state_dict(), plan.folder / "model.pt")


def make_dino(shop: Workshop) -> None:
    """Trains the judge of likeness."""
    plan = shop.stage("dino", _SEEN, _ELSEWHERE)
    trained = train_dino(plan, shop.world(), shop.world("elsewhere"), device=shop.device)
    torch.save(trained.state_dict(), plan.folder / "model.pt")


def export(shop: Workshop) -> None:
    """Puts everything together in the folder "export", each model with its card."""
    out = shop.folder / "export"
    export_generator(shop.folder, out / "sd15")
    export_clip(shop.folder, out / "clip")
    export_dino(shop.folder, out / "dino")
    for name in CARDS:
        num = {
            "sd15": NUM_SEEN + NUM_TOYS,
            "clip": NUM_SEEN + NUM_HELD_OUT,
            "dino": 2 * NUM_ELSEWHERE,
        }[name]
        write_card(name, out / name, shop.folder, PLANS, num)
    draw_samples(out / "sd15")


STAGES: Mapping[str, Callable[[Workshop], None]] = {
    "world": make_world,
    "tokenizer": make_tokenizer,
    "vae": make_vae,
    "decoder": make_decoder,
    "denoiser": make_denoiser,
    "toys": make_toys,
    "clip": make_clip,
    "dino": make_dino,
    "export": export,
}
