"""Estimators that are not shipped, or not the default, each judged in closed loop.

    stack of blocks -> full at the steps of a list, else predicted by the estimator
    list            -> the full steps that the defaults choose with `target_nfc`

Every estimator draws whole images of the bundled model in eager code, at the same full
steps, over samplers x guidance x NFC; its score is their PSNR against the uncached
images. What differs between rows is the estimate alone. `taylor` is the default's.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

import rfc_compile
from benchmarks.glyph_cells import Cell, cells, draw, full_steps_of
from benchmarks.ideas_of_modules import Score, grid
from benchmarks.report import console, save
from rfc_compile.estimators.base import (
    changes,
    extrapolate,
    gram_matrix,
    inner_product,
    ratio,
)
from rfc_compile.estimators.noise_levels import diffusion_level
from rfc_compile.estimators.step_weights import newton_coefficients
from rfc_compile.estimators.subspace import solve
from rfc_compile.tools.bench.methods.base import EAGER, compile_model
from rfc_compile.tools.measure import glyph_dit
from rfc_compile.tools.measure.metrics import psnr

DEFAULT: Final = "taylor"
_ORDER: Final = 2
_SEED, _OTHER_SEED = 7000, 3000


@dataclass(frozen=True)
class Moment:
    """One step as an estimator sees it.

    Attributes:
        level: of the noise.
        inputs: what an estimate may relate to, by name: the ``stream`` before the first
            block, the ``latent``, and the stream after the first block (``probe``).
        output: what the blocks add to the stream; at a cached step not known.

    """

    level: float
    inputs: dict[str, Tensor]
    output: Tensor | None = None


Estimate = Callable[[Moment, Sequence[Moment]], list[Tensor]]
"""Coefficients of the output's last changes, (G,) each, from the full steps before."""


def _weights(now: Moment, kept: Sequence[Moment], order: int = _ORDER) -> list[Tensor]:
    levels = [moment.level for moment in kept]
    weights = newton_coefficients(now.level, levels, order) or [0.0] * order
    groups = len(kept[0].inputs["stream"])
    usable = min(order, len(kept) - 1)
    return [torch.full((groups,), weight) for weight in weights[:usable]]


def taylor(order: int) -> Estimate:
    """Extrapolation in the noise level."""
    return lambda now, kept: _weights(now, kept, order)


def _moves(name: str, kept: Sequence[Moment], count: int) -> list[Tensor]:
    return changes([moment.inputs[name] for moment in kept], count)


def scaled(name: str, least: float, most: float) -> Estimate:
    """Taylor's step, as much longer as the input's is than Taylor's guess of it."""

    def estimate(now: Moment, kept: Sequence[Moment]) -> list[Tensor]:
        weights = _weights(now, kept)
        if not weights:
            return weights
        moves = _moves(name, kept, len(weights))
        shape = (-1,) + (1,) * (moves[0].ndim - 1)
        pairs = zip(weights, moves, strict=True)
        guess = torch.stack([w.reshape(shape) * move for w, move in pairs]).sum(0)
        moved = now.inputs[name] - kept[0].inputs[name]
        lengths = [inner_product(x, x).sqrt() for x in (moved, guess)]
        scale = ratio(*lengths).clamp(least, most)
        return [scale * weight for weight in weights]

    return estimate


def subspace(name: str, ridge: float, order: int = _ORDER) -> Estimate:
    """Least squares on the input, pulled to Taylor's weights."""

    def estimate(now: Moment, kept: Sequence[Moment]) -> list[Tensor]:
        weights = _weights(now, kept, order)
        if not weights:
            return weights
        moves = _moves(name, kept, len(weights))
        gram = iter(gram_matrix(moves))
        moved = now.inputs[name] - kept[0].inputs[name]
        count = len(moves)
        matrix = [[moved] * count for _ in range(count)]
        right = []
        for i in range(count):
            for j in range(i, count):
                matrix[i][j] = matrix[j][i] = next(gram)
            diagonal = matrix[i][i]
            right.append(inner_product(moved, moves[i]) + ridge * diagonal * weights[i])
            matrix[i][i] = diagonal * (1 + ridge)
        return solve(matrix, right)

    return estimate


def _outputs(kept: Sequence[Moment]) -> list[Tensor]:
    return [moment.output for moment in kept if moment.output is not None]


def _miss(estimate: Estimate, kept: Sequence[Moment]) -> Tensor:
    """How far an estimate of the newest full step, from those before, was off."""
    newest, *before = kept
    assert newest.output is not None
    guess = extrapolate(_outputs(before), estimate(newest, before))
    return inner_product(newest.output - guess, newest.output - guess)


def _by_misses(
    candidates: Sequence[Estimate], steps: int, shares: Callable[[Tensor], Tensor]
) -> Estimate:
    """A mix, by sample; ``shares`` of the misses (candidates, G) at the last steps."""

    def estimate(now: Moment, kept: Sequence[Moment]) -> list[Tensor]:
        own = [candidate(now, kept) for candidate in candidates]
        usable = [i for i in range(steps) if len(kept) - i > _ORDER + 1]
        if not usable:
            return own[0]
        misses = torch.stack(
            [sum(_miss(c, kept[i:]) for i in usable) for c in candidates]
        )
        return _mixed(own, shares(misses))

    return estimate


def best_of(candidates: Sequence[Estimate], steps: int) -> Estimate:
    """By sample the candidate that would have predicted the last full steps best."""
    return _by_misses(
        candidates, steps, lambda misses: (misses == misses.amin(0)) * 1.0
    )


def blend_of(candidates: Sequence[Estimate], steps: int) -> Estimate:
    """All of them, by sample in inverse proportion to those misses."""
    return _by_misses(candidates, steps, lambda x: 1 / x.clamp_min(1e-12))


def _mixed(own: Sequence[Sequence[Tensor]], shares: Tensor) -> list[Tensor]:
    """The coefficients of several estimates, by shares of (candidates, G)."""
    shares = shares / shares.sum(0)
    longest = max(map(len, own))
    none = torch.zeros_like(shares[0])
    return [
        sum(
            (
                share * (weights[j] if j < len(weights) else none)
                for share, weights in zip(shares, own, strict=True)
            ),
            none,
        )
        for j in range(longest)
    ]


_RELATED: Final = [taylor(2), scaled("stream", 0.5, 2.0), subspace("stream", 0.5)]
_TAYLORS: Final = [taylor(2), taylor(1)]

IDEAS: Final[dict[str, Estimate]] = {
    DEFAULT: taylor(2),
    "taylor 1": taylor(1),
    "scaled by the stream": scaled("stream", 0.0, 1e9),
    "scaled by the stream, 0.8 to 1.25": scaled("stream", 0.8, 1.25),
    "scaled by the latent": scaled("latent", 0.0, 1e9),
    "scaled by the first block": scaled("probe", 0.0, 1e9),
    "subspace of the stream": subspace("stream", 0.5),
    "subspace of the stream, ridge 4": subspace("stream", 4.0),
    "subspace of the latent": subspace("latent", 0.5),
    "subspace of the first block": subspace("probe", 0.5),
    "subspace of the first block, ridge 4": subspace("probe", 4.0),
    "best of taylor, scaled, subspace": best_of(_RELATED, 1),
    "best of these, last 3": best_of(_RELATED, 3),
    "blend of these": blend_of(_RELATED, 1),
    "best of taylor 2 and 1": best_of(_TAYLORS, 1),
    "best of taylor 2 and 1, last 3": best_of(_TAYLORS, 3),
    "blend of taylor 2 and 1": blend_of(_TAYLORS, 1),
}


class Stack(nn.Module):
    """The blocks as one, computed at some steps and predicted at the others."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self._blocks = blocks
        first: Any = blocks[0]
        self.norm1 = first.norm1  # the model takes its embedding from the first block
        self.latent = torch.empty(0)
        self.begin(DEFAULT, ())

    def begin(self, idea: str, full_steps: Sequence[int]) -> None:
        """The next call is the first of a run."""
        self._estimate = IDEAS[idea]
        self._full_steps = frozenset(full_steps)
        self._step = 0
        self._kept: list[Moment] = []

    def is_full(self, now: Moment) -> bool:
        """Whether the blocks are computed at the step that is next."""
        return self._step in self._full_steps

    def forward(self, stream: Tensor, **inputs: Any) -> Tensor:
        """As one block."""
        probe = self._blocks[0](stream, **inputs)
        level = diffusion_level(float(inputs["timestep"][0]) / 999)
        relate = {"stream": stream, "latent": self.latent, "probe": probe}
        now = Moment(level, relate)
        full = self.is_full(now)
        self._step += 1
        if not full:
            coefficients = self._estimate(now, self._kept)
            return stream + extrapolate(_outputs(self._kept), coefficients)
        result = probe
        for block in itertools.islice(self._blocks, 1, None):
            result = block(result, **inputs)
        kept = Moment(level, relate, result - stream)
        self._kept = [kept, *self._kept][: 2 * _ORDER + 2]
        return result


OfStack = TypeVar("OfStack", bound=Stack)


def make_model(kind: type[OfStack]) -> tuple[Any, OfStack]:
    """The bundled model with a stack of this kind in place of its blocks."""
    model: Any = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
    stack = kind(model.transformer_blocks)
    model.transformer_blocks = nn.ModuleList([stack])

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        stack.latent = arguments[0]

    model.register_forward_pre_hook(note)
    return model, stack


@dataclass
class _Drawing:
    """The model, uncached, with the defaults and with a stack of its own."""

    images: int

    def __post_init__(self) -> None:
        self.uncached = glyph_dit.load_glyph_dit().to(glyph_dit.default_device())
        self.model, self.stack = make_model(Stack)

    def steps_of(self, cell: Cell) -> list[int]:
        """The steps that the defaults compute in full."""
        options = {"target_nfc": cell.nfc, "inner": EAGER}
        model = compile_model(self.uncached, "rfc", dynamic=False, options=options)
        rfc_compile.reset(model)
        for seed in (_OTHER_SEED, _SEED):
            with rfc_compile.trajectory("ideas", num_steps=cell.steps):
                draw(model, cell, self.images, seed)
        full_steps = full_steps_of(rfc_compile.stats(model), cell.steps)
        torch.compiler.reset()
        return full_steps

    def scores(self, cell: Cell) -> Iterator[Score]:
        """Of every idea."""
        reference = draw(self.uncached, cell, self.images, _SEED)
        full_steps = self.steps_of(cell)
        for idea in IDEAS:
            self.stack.begin(idea, full_steps)
            drawn = draw(self.model, cell, self.images, _SEED)
            yield Score(idea, cell, psnr(drawn, reference).mean().item())


def run(*, quick: bool, images: int | None) -> None:
    """Measure, print and write `results/ideas.json` and `ideas.md`."""
    count = images or (2 if quick else 4)
    drawing, scores = _Drawing(count), []
    for cell in cells(quick=quick):
        scores += drawing.scores(cell)
        console.print(cell, highlight=False)
    table = grid(scores, IDEAS, DEFAULT)
    table.show()
    save(
        "ideas",
        "Estimators that are not the default",
        {"images": count, "scores": [asdict(score) for score in scores]},
        [f"{count} images per cell.\n", table.markdown()],
    )
