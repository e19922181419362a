"""Text embeddings on disk, for text encoders that are not trained."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from src.data.tensor_store import DTYPES, TensorStore, entry_key


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEntry:
    """The embeddings of one prompt, in float32 whatever the precision on disk.

    Attributes:
        hidden: Hidden states of the text encoder(s).
        pooled: The pooled embedding, for models that are conditioned on one (SDXL).
    """

    hidden: Float[Tensor, "t d"]
    pooled: Float[Tensor, " p"] | None


class TextCache:
    """One entry a prompt, under the hash of the encoders and the precision.

    Args:
        folder: Shared by runs, jobs and datasets.
        text_hash: Hash of tokenizers (with added tokens), encoders and token limit.
        precision: "fp32", "fp16" or "bf16": what is kept on disk.
    """

    def __init__(self, folder: Path, *, text_hash: str, precision: str = "fp32") -> None:
        self._store = TensorStore(folder / entry_key("text", text_hash, precision)[:16])
        self._dtype = DTYPES[precision]

    def claim(self, text: str) -> bool:
        """Whether there is an entry, sound or not; see `TensorStore.claim`."""
        return self._store.claim(entry_key(text))

    def get(self, text: str) -> TextEntry | None:
        """The entry, or None if it is absent or damaged."""
        stored = self._store.read(entry_key(text))
        if stored is None:
            return None
        pooled = stored.tensors.get("pooled")
        return TextEntry(
            hidden=stored.tensors["hidden"].float(), pooled=None if pooled is None else pooled.float()
        )

    def put(self, text: str, entry: TextEntry) -> int:
        """Keeps an entry and returns its size in bytes."""
        rounded = {"hidden": entry.hidden.to(self._dtype)}
        if entry.pooled is not None:
            rounded["pooled"] = entry.pooled.to(self._dtype)
        return self._store.write(entry_key(text), rounded, {})

    def rounded(self, entry: TextEntry) -> TextEntry:
        """The entry as it will be read back."""
        pooled = None if entry.pooled is None else entry.pooled.to(self._dtype).float()
        return TextEntry(hidden=entry.hidden.to(self._dtype).float(), pooled=pooled)


def text_entry_bytes(num_tokens: int, width: int, *, pooled_width: int = 0, precision: str = "fp32") -> int:
    """Projected size of one entry on disk."""
    return (num_tokens * width + pooled_width) * DTYPES[precision].itemsize + 300
