"""The text encoder of the small models: one learned vector a word.

A prompt is a few words of the vocabulary. Its vectors are the text tokens and their
mean is the pooled projection; the rest of the tokens, and the empty prompt, are
padding.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rfc_compile.errors import OptionError, TunedFileError, one_line
from rfc_compile.io.json_files import read_json

PADDING: Final = "<pad>"
_MOST_BYTES: Final = 8 << 20


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))


class WordTable(nn.Module):
    """Vectors of words, the first of which is padding; ``length`` tokens a prompt."""

    def __init__(self, vocabulary: Sequence[str], length: int, width: int) -> None:
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self.length = length
        self.embedding = nn.Embedding(len(vocabulary), width)
        self._index = {word: i for i, word in enumerate(vocabulary)}

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """The words of the prompts by index, (B, length) int64."""
        rows = torch.zeros(len(prompts), self.length, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            words = words_of(prompt)
            if len(words) > self.length:
                raise OptionError(
                    f"prompt {prompt!r} has {len(words)} words; at most {self.length}"
                )
            found = [self._index_of(word, prompt) for word in words]
            row[: len(found)] = torch.tensor(found, dtype=torch.long)
        return rows

    def _index_of(self, word: str, prompt: str) -> int:
        if word in self._index:
            return self._index[word]
        near = difflib.get_close_matches(word, self.vocabulary[1:], n=5, cutoff=0.5)
        hint = f"near ones: {', '.join(near)}" if near else "nothing is near it"
        raise OptionError(f"prompt {prompt!r}: the model has no word {word!r}; {hint}")

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, length) -> vectors (B, length, width) and their mean (B, width)."""
        vectors = self.embedding(tokens)
        real = (tokens > 0).unsqueeze(-1)
        return vectors, (vectors * real).sum(1) / real.sum(1).clamp(min=1)


def load_words(folder: Path, length: int, width: int) -> WordTable:
    """The table of a model's folder: `vocabulary.json` and `words.safetensors`."""
    path = folder / "words.safetensors"
    try:
        table = WordTable(read_json(folder / "vocabulary.json"), length, width)
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        table.load_state_dict(load_file(path))
    except (
        *(OSError, ValueError, TypeError, RuntimeError),
        *(SafetensorError, TunedFileError),
    ) as error:
        raise OptionError(
            f"{folder} does not hold the words of this model: {one_line(error)}"
        ) from error
    return table.float().eval().requires_grad_(False)
