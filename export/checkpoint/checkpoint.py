"""An opened checkpoint: its facts, its tensors one by one, its tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from export.checkpoint.choices import UNSET, Choices, Unset
from export.checkpoint.config import ModelConfig
from export.checkpoint.expected import expected_tensors
from export.checkpoint.locate import locate
from export.checkpoint.read_config import read_config
from export.checkpoint.tensor_files import FLOATS, TensorFiles
from export.checkpoint.tokenizer_files import TokenizerFiles, read_tokenizer_files
from runtime.errors import CheckpointError

# Left in some checkpoints and read by nobody: a parameter of the encoder's pre-training, and buffers of old versions.
_UNUSED = re.compile(r"point_backbone\.embedding\.mask_token|model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_NAMED_IN_FULL = 5  # wrong tensors in one message; a wrong config can make hundreds


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What export reads. Tensors are read from the files each time they are asked for; nothing is kept."""

    model: str  # as the user named it
    folder: Path
    config: ModelConfig
    notes: tuple[str, ...]  # one line per setting: what it is and who set it
    round_encoder_to_bf16: bool
    files: TensorFiles

    def names(self) -> list[str]:
        """Names of all stored tensors."""
        return self.files.names()

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as it is stored: float32, bfloat16 or float16."""
        return self.files.tensor(name)

    def float_tensor(self, name: str) -> torch.Tensor:
        """A tensor as float32, widened exactly; the encoder's through bfloat16 where that was asked for.

        Upstream loads every weight as bfloat16 by default and then widens the encoder, so the rounding is its parity.
        """
        tensor = self.tensor(name)
        if self.round_encoder_to_bf16 and name.startswith("point_backbone."):
            tensor = tensor.to(torch.bfloat16)
        return tensor.to(torch.float32)

    def head_weight(self) -> torch.Tensor:
        """The output head [V, C] as float32: the embedding's rows where the two are tied."""
        tied = self.config.language_model.tie_word_embeddings
        return self.float_tensor("model.embed_tokens.weight" if tied else "lm_head.weight")

    def verify(self) -> None:
        """Compare names, shapes and types of all tensors with what config.json implies. Raises CheckpointError."""
        expected = expected_tensors(self.config)
        stored = {name: self.files.shape(name) for name in self.names() if not _UNUSED.fullmatch(name)}
        wrong = [f"{name} {list(shape)} is missing" for name, shape in expected.items() if name not in stored]
        wrong += [self._wrong(name, shape, expected[name]) for name, shape in stored.items() if name in expected]
        wrong += [self._extra(name, shape) for name, shape in stored.items() if name not in expected]
        if wrong := [sentence for sentence in wrong if sentence]:
            more = f"; and {len(wrong) - _NAMED_IN_FULL} more" if len(wrong) > _NAMED_IN_FULL else ""
            raise CheckpointError(
                f"{self.folder}: the weights do not fit config.json: {'; '.join(wrong[:_NAMED_IN_FULL])}{more}. "
                f"Check that both belong to the same checkpoint."
            )

    def tokenizer_files(self) -> TokenizerFiles:
        """Paths and texts that the prompt needs. Raises CheckpointError when one is missing."""
        return read_tokenizer_files(self.folder, self.config.language_model.family)

    def _wrong(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
        if found != expected:
            return f"{name} is {list(found)}, expected {list(expected)}"
        dtype = self.files.dtype(name)
        return "" if dtype in FLOATS else f"{name} is stored as {dtype}, expected F32, BF16 or F16"

    def _extra(self, name: str, shape: tuple[int, ...]) -> str:
        if name != "lm_head.weight":
            return f"{name} {list(shape)} is not expected"
        if "model.embed_tokens.weight" in self.names() and self.files.equal(name, "model.embed_tokens.weight"):
            return ""
        return (
            f"lm_head.weight {list(shape)} differs from model.embed_tokens.weight, although tie_word_embeddings is "
            f"true (set it to false if the head is its own)"
        )


def open_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    vlm_pe: str | Unset | None = UNSET,
    merge_rule: str | None = None,
    variant: str = "PE-A",
    pcd_theta: float | None = None,
    round_encoder_to_bf16: bool = False,
) -> Checkpoint:
    """Open a Hugging Face directory or hub id.

    `vlm_pe`, `merge_rule` and `pcd_theta` are the command line's and win over config.json; UNSET and None mean "not
    given" (a given `vlm_pe` of None, "None" or "none" means no 3D encoding). Opening reads the JSON files and the
    headers of the weights; call `verify()` to compare them. Raises CheckpointError.
    """
    folder = locate(str(model), revision)
    files = TensorFiles(folder)
    choices = Choices(vlm_pe=vlm_pe, merge_rule=merge_rule, variant=variant, pcd_theta=pcd_theta)
    config, notes = read_config(folder, files.names(), choices)
    if revision is not None and Path(model).expanduser().is_dir():
        notes = (*notes, f"[Config] revision {revision} has no effect: {model} is a directory")
    return Checkpoint(
        model=str(model),
        folder=folder,
        config=config,
        notes=notes,
        round_encoder_to_bf16=round_encoder_to_bf16,
        files=files,
    )
