"""Random residual networks, as a hypothesis strategy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from model_zoo import BLOCKS, TwoWayBlock
from models import MLP, WIDTH, Attention, Block, Stack, build
from torch import Tensor, nn

NORMS = ("layer", "rms", "none")
GATES = ("mul", "addcmul", "none", "tanh")
FORMS = ("plain", "view", "cast", "divided", "swapped")


@dataclass(frozen=True)
class Branch:
    """How one residual add is written."""

    kind: str
    norm: str
    gate: str
    form: str
    shares_norm: bool
    unused: bool


class RandomBlock(Block):
    """Residual adds as a list of ``Branch`` says."""

    def __init__(self, branches: tuple[Branch, ...]) -> None:
        self.branches = branches
        super().__init__()

    def build(self) -> None:
        kinds = {"attn": Attention, "mlp": MLP}
        self.layers = nn.ModuleList(kinds[b.kind]() for b in self.branches)
        self.norms = nn.ModuleDict(
            {"layer": nn.LayerNorm(WIDTH), "rms": nn.RMSNorm(WIDTH)}
        )
        self.norms["none"] = nn.Identity()

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        shift, scale, gate, *_ = self.modulate(c)
        shared = self.norms["layer"](x) * (1 + scale) + shift
        for branch, layer in zip(self.branches, self.layers, strict=True):
            own = self.norms[branch.norm](x) * (1 + scale) + shift
            h = layer(shared if branch.shares_norm else own)
            if branch.unused:
                layer(h).sum()
            x = add(x, h, gate, branch)
        return x


def add(x: Tensor, h: Tensor, gate: Tensor, branch: Branch) -> Tensor:
    """The residual add of ``h`` in the branch's form."""
    if branch.form == "view":
        h = h.flatten(0, 1).unflatten(0, x.shape[:2])
    elif branch.form == "cast":
        x = x.double().float()
    elif branch.form == "divided":
        h = h / 2.0
    if branch.gate == "addcmul":
        return torch.addcmul(x, gate, h)
    if branch.gate != "none":
        h = (gate.tanh() if branch.gate == "tanh" else gate) * h
    return h + x if branch.form == "swapped" else x + h


class RandomStack(Stack):
    """Blocks of the zoo and random ones in any order."""

    def __init__(self, blocks: tuple[object, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            RandomBlock(block) if isinstance(block, tuple) else block()
            for block in blocks
        )


BRANCHES = st.builds(
    Branch,
    kind=st.sampled_from(("attn", "mlp")),
    norm=st.sampled_from(NORMS),
    gate=st.sampled_from(GATES),
    form=st.sampled_from(FORMS),
    shares_norm=st.booleans(),
    unused=st.booleans(),
)
ZOO_BLOCKS = [block for block in BLOCKS if block is not TwoWayBlock]
RECIPES = st.lists(
    st.one_of(
        st.lists(BRANCHES, min_size=1, max_size=3).map(tuple),
        st.sampled_from(ZOO_BLOCKS),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


def random_model(recipe: tuple[object, ...], seed: int) -> nn.Module:
    """The seeded network of a recipe."""
    return build(lambda: RandomStack(recipe), seed)
