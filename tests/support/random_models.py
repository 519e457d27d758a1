"""Random residual networks, as a hypothesis strategy.

A recipe is blocks (of the zoo, or a list of residual adds), a long skip around them,
and what the forward takes and returns. Its ``repr`` in a failure is the whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from model_zoo import BLOCKS, GatedAttention, LinearAttention, TwoWayBlock
from models import (
    MLP,
    TOKENS,
    WIDTH,
    Attention,
    Block,
    ConvMLP,
    CrossAttention,
    MatmulAttention,
    RotatedAttention,
    RoutedMLP,
    Stack,
    build,
    tokens,
)
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = ("layer", "rms", "none")
GATES = ("mul", "addcmul", "none", "tanh")
FORMS = (
    *("plain", "view", "cast", "half", "divided", "swapped", "strided"),
    *("in_place", "set_item", "sliced", "joined"),
)
IMAGE = (2, 4, TOKENS)
"""Channels, height and width of an image: its patches are ``TOKENS`` tokens."""

KEPT = TOKENS // 2
"""Tokens of the part of a sequence that a branch of the forms of slices is added to."""


class GatedMLP(nn.Module):
    """A linear, half of whose channels gate the other half, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.silu(gate))


class AffineMLP(nn.Sequential):
    """Two linears with nothing between."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH))


class AffineConv(ConvMLP):
    """Three convolutions with nothing between."""

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (2, -1))
        return self.down(self.depth(self.up(image))).flatten(2).transpose(1, 2)


class Nested(nn.Module):
    """A residual add of its own inside a branch."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Linear(WIDTH, WIDTH),
            layer(),
            AffineMLP(),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.inner(h)
        return self.last(h)


AFFINE = {"affine": AffineMLP, "affine_conv": AffineConv}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attn": Attention,
    "matmul_attn": MatmulAttention,
    "rotated_attn": RotatedAttention,
    "gated_attn": GatedAttention,
    "linear_attn": LinearAttention,
    "cross_attn": CrossAttention,
    "mlp": MLP,
    "gated_mlp": GatedMLP,
    "routed_mlp": RoutedMLP,
    "conv": ConvMLP,
    "linear": lambda: nn.Linear(WIDTH, WIDTH),  # too little to be a region
    "nested_attn": lambda: Nested(Attention),
    "nested_mlp": lambda: Nested(MLP),
    **AFFINE,
    "nested_affine": lambda: Nested(AffineMLP),
}


@dataclass(frozen=True)
class GuidanceBranch:
    """How one residual add is written.

    Attributes:
        kind: the layer, a name of ``LAYERS``.
        beside: a second layer that reads the same input, added along with the first.
        tied: whether it uses the first layer of this kind in its block once more.
        norm, gate, form: before the layer, behind it, and how the add is written.
        shares_norm: whether it reads the norm of the block's input.
        unused: whether something is computed of it that nobody reads.

    """

    kind: str
    norm: str = "layer"
    gate: str = "mul"
    form: str = "plain"
    beside: str | None = None
    tied: bool = False
    shares_norm: bool = False
    unused: bool = False


class RandomBlock(Block):
    """Residual adds as a list of ``GuidanceBranch`` says."""

    def __init__(self, branches: tuple[GuidanceBranch, ...]) -> None:
        self.branches = branches
        super().__init__()

    def build(self) -> None:
        first: dict[str, nn.Module] = {}
        made = []
        for branch in self.branches:
            layer = LAYERS[branch.kind]()
            known = first.setdefault(branch.kind, layer)
            made.append(known if branch.tied else layer)
        self.layers = nn.ModuleList(made)
        self.others = nn.ModuleList(
            LAYERS[b.beside]() if b.beside else nn.Identity() for b in self.branches
        )
        self.norms = nn.ModuleDict(
            {"layer": nn.LayerNorm(WIDTH), "rms": nn.RMSNorm(WIDTH)}
        )
        self.norms["none"] = nn.Identity()

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift, scale, gate, *_ = self.modulate(c)
        shared = self.norms["layer"](x) * (1 + scale) + shift
        for branch, layer, other in zip(
            self.branches, self.layers, self.others, strict=True
        ):
            own = self.norms[branch.norm](x) * (1 + scale) + shift
            given = shared if branch.shares_norm else own
            h = apply(layer, given, text)
            if branch.beside:
                h = h + apply(other, given, text)
            if branch.unused:
                apply(layer, h, text).sum()
            x = add(x, h, gate, branch)
        return x


def apply(layer: nn.Module, x: Tensor, text: Tensor) -> Tensor:
    """What a layer makes of the stream, and of the text if it reads one."""
    return layer(x, text) if isinstance(layer, CrossAttention) else layer(x)


def add(x: Tensor, h: Tensor, gate: Tensor, branch: GuidanceBranch) -> Tensor:
    """The residual add of ``h`` in the branch's form."""
    if branch.form == "view":
        h = h.flatten(0, 1).unflatten(0, x.shape[:2])
    elif branch.form == "cast":
        x = x.double().float()
    elif branch.form == "half":
        h = h.bfloat16()
    elif branch.form == "divided":
        h = h / 2.0
    elif branch.form == "strided":
        h = h.transpose(1, 2).contiguous().transpose(1, 2)
    if branch.form in PARTLY:
        return PARTLY[branch.form](x, gate * h)
    if branch.gate == "addcmul" and branch.form != "half":
        return torch.addcmul(x, gate, h)
    if branch.gate != "none":
        h = (gate.tanh() if branch.gate == "tanh" else gate) * h
    return h + x if branch.form == "swapped" else x + h


def _in_place(x: Tensor, h: Tensor) -> Tensor:
    x = x.clone()
    x += h
    return x


def _set_item(x: Tensor, h: Tensor) -> Tensor:
    x = x.clone()
    x[:, :KEPT] += h[:, :KEPT]
    return x


def _sliced(x: Tensor, h: Tensor) -> Tensor:
    return torch.cat([x[:, :KEPT] + h[:, :KEPT], x[:, KEPT:]], dim=1)


def _joined(x: Tensor, h: Tensor) -> Tensor:
    parts = [x[:, :KEPT] + h[:, :KEPT], x[:, KEPT:] + h[:, KEPT:]]
    return torch.cat(parts, dim=1)


PARTLY = {
    "in_place": _in_place,
    "set_item": _set_item,
    "sliced": _sliced,
    "joined": _joined,
}


@dataclass(frozen=True)
class Recipe:
    """A whole network.

    Attributes:
        blocks: of the zoo, or branches of a ``RandomBlock``.
        skip: a long skip from before the first block to after the last one: ``none``,
            ``add``, or ``cat`` behind a linear.
        returns: also ``hidden``, the stream before the last block, ``time``, or
            ``none``.
        images: whether it takes images (B, 2, H, W) rather than tokens.

    """

    blocks: tuple[object, ...]
    skip: str = "none"
    returns: str = "none"
    images: bool = False

    def latent(self, seed: int, batch: int = 2) -> Tensor:
        """Noise of the shape that the network takes."""
        if not self.images:
            return tokens(seed, batch)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *IMAGE, generator=generator)


class RandomStack(Stack):
    """The network of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.blocks = nn.ModuleList(
            RandomBlock(block) if isinstance(block, tuple) else block()  # type: ignore[operator]
            for block in recipe.blocks
        )
        if recipe.skip == "cat":
            self.merge = nn.Linear(2 * WIDTH, WIDTH)
        if recipe.images:
            self.patch = nn.Conv2d(2, WIDTH, 2, stride=2)
            self.unpatch = nn.ConvTranspose2d(WIDTH, 2, 2, stride=2)

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> object:
        if self.recipe.images:
            grid = self.patch(x)
            x = grid.flatten(2).transpose(1, 2)
        x = self.embed(x)
        text = x if text is None else text
        c = self.time(t)
        start = hidden = x
        for block in self.blocks:
            hidden = x
            x = block(x, c, text)
        if self.recipe.skip == "add":
            x = x + start
        elif self.recipe.skip == "cat":
            x = self.merge(torch.cat([x, start], dim=-1))
        x = self.head(self.norm(x))
        if self.recipe.images:
            x = self.unpatch(x.transpose(1, 2).unflatten(2, grid.shape[2:]))
        beside = {"hidden": hidden, "time": c}
        return (x, beside[self.recipe.returns]) if self.recipe.returns in beside else x


def branches(
    kinds: tuple[str, ...] = tuple(LAYERS), **others: st.SearchStrategy[object]
) -> st.SearchStrategy[GuidanceBranch]:
    """Branches of these kinds; ``others`` are the strategies of further fields."""
    varying: dict[str, st.SearchStrategy[object]] = {
        "kind": st.sampled_from(kinds),
        "norm": st.sampled_from(NORMS),
        "gate": st.sampled_from(GATES),
        "form": st.sampled_from(FORMS),
        "beside": st.none() | st.sampled_from(kinds),
        "tied": st.booleans(),
        "shares_norm": st.booleans(),
        "unused": st.booleans(),
    }
    return st.builds(GuidanceBranch, **(varying | others))


ZOO_BLOCKS = [block for block in BLOCKS if block is not TwoWayBlock]
_LISTS = st.lists(branches(), min_size=1, max_size=3).map(tuple)
_BLOCKS = st.lists(
    st.one_of(_LISTS, st.sampled_from(ZOO_BLOCKS)), min_size=1, max_size=3
).map(tuple)
SKIPS = st.sampled_from(("none", "none", "add", "cat"))
RECIPES = st.builds(Recipe, blocks=_BLOCKS, skip=SKIPS)
"""Networks of tokens that return one tensor."""

ANY_RECIPES = st.builds(
    Recipe,
    blocks=_BLOCKS,
    skip=SKIPS,
    returns=st.sampled_from(("none", "none", "hidden", "time")),
    images=st.booleans(),
)
_AFFINE_BRANCHES = branches(
    (*AFFINE, "nested_affine"),
    norm=st.just("none"),
    form=st.sampled_from([form for form in FORMS if form != "half"]),
    shares_norm=st.just(False),
)
AFFINE_RECIPES = st.builds(
    Recipe,
    blocks=st.lists(
        st.lists(_AFFINE_BRANCHES, min_size=1, max_size=2).map(tuple),
        min_size=1,
        max_size=2,
    ).map(tuple),
    skip=SKIPS,
)
"""Networks whose blocks are affine in the stream, for one timestep."""


def random_model(recipe: Recipe, seed: int) -> nn.Module:
    """The seeded network of a recipe."""
    return build(lambda: RandomStack(recipe), seed)
