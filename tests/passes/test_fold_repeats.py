"""fold_repeats: identical blocks become calls of one submodule; nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from rfc_compile.passes.rewrites.fold_repeats import FEWEST, SHORTEST, fold_repeats
from rfc_compile.torch_internals import compile_with_inductor, invoke_subgraph

WIDTH = 8
Blocks = Callable[..., Tensor | tuple[Tensor, ...]]


def traced(
    function: Blocks, *arguments: Tensor, sizes: ShapeEnv | None = None
) -> fx.GraphModule:
    fakes = FakeTensorMode(shape_env=sizes)
    with fakes:
        return make_fx(function)(*map(fakes.from_tensor, arguments))


def values(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, WIDTH, generator=generator) for _ in range(count)]


def block(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Long enough to be worth a submodule; reads a value that all blocks share."""
    y = x.softmax(-1) * scale
    for _ in range(SHORTEST // 2):
        y = (y * weight + x).tanh()
    return x + y


def chain(x: Tensor, *weights: Tensor) -> Tensor:
    scale = x.mean(-1, keepdim=True)
    for weight in weights:
        x = block(x, weight, scale)
    return x.sin()


def two_chains(x: Tensor, *weights: Tensor) -> Tensor:
    for weight in weights:
        x = block(x, weight, x)
    for weight in weights:
        x = block(x, weight.exp().cumsum(0), x).cos()
    return x


def with_skips(x: Tensor, *weights: Tensor) -> Tensor:
    """The first half of the blocks give their output to the second half."""
    kept = []
    for weight in weights:
        x = block(x, weight, x)
        kept.append(x)
    for weight in weights:
        x = block(x + kept.pop(), weight, x)
    return x


def several_results(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Every block's output leaves the graph, and half of it as a view."""
    results = []
    for weight in weights:
        x = block(x, weight, x)
        results.append(x)
    return (*results, x[:, : WIDTH // 2])


def calls(gm: fx.GraphModule) -> list[fx.Node]:
    return gm.graph.find_nodes(op="call_function", target=invoke_subgraph)


def run(gm: fx.GraphModule, arguments: Sequence[Tensor]) -> list[Tensor]:
    result: Any = gm(*arguments)
    return list(result) if isinstance(result, tuple | list) else [result]


FORWARDS = [chain, two_chains, with_skips, several_results]


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("blocks", [FEWEST, 7])
def test_repeats_become_calls_with_the_same_values(
    forward: Blocks, blocks: int
) -> None:
    arguments = values(blocks + 1)
    before = traced(forward, *arguments)
    expected = run(before, arguments)
    size = len(before.graph.nodes)
    after = fold_repeats(before)
    assert len(calls(after)) >= FEWEST
    assert len(after.graph.nodes) < size
    for result, value in zip(run(after, arguments), expected, strict=True):
        assert torch.equal(result, value)


def test_its_size_does_not_grow_with_the_blocks() -> None:
    sizes = []
    for blocks in (6, 12, 24):
        gm = fold_repeats(traced(chain, *values(blocks + 1)))
        inside = sum(len(child.graph.nodes) for child in gm.children())
        sizes.append((len(gm.graph.nodes) - 4 * blocks, inside))  # 4: its weight too
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_second_run_changes_nothing(forward: Blocks) -> None:
    once = fold_repeats(traced(forward, *values(6)))
    code = once.code
    assert fold_repeats(once).code == code


def unequal(x: Tensor, *weights: Tensor) -> Tensor:
    for i, weight in enumerate(weights):
        x = block(x, weight, x) * float(i)
    return x


def wired_otherwise(x: Tensor, *weights: Tensor) -> Tensor:
    """The same ops on values of the same kind, connected in two ways in turn."""
    for i, weight in enumerate(weights):
        y, z = x.sin(), x.cos()
        x = block(y, weight, z) if i % 2 else block(z, weight, y)
    return x


@pytest.mark.parametrize(
    ("forward", "blocks"), [(chain, FEWEST - 1), (unequal, 4), (wired_otherwise, 4)]
)
def test_anything_else_stays(forward: Blocks, blocks: int) -> None:
    gm = traced(forward, *values(blocks + 1))
    code = gm.code
    assert fold_repeats(gm).code == code


def test_symbolic_sizes_stay() -> None:
    gm = traced(chain, *values(6), sizes=ShapeEnv())
    code = gm.code
    assert fold_repeats(gm).code == code


def test_writes_stay() -> None:
    def writing(x: Tensor, *weights: Tensor) -> Tensor:
        for weight in weights:
            x = block(x, weight, x)
            weight.copy_(x)
        return x

    gm = fold_repeats(traced(writing, *values(5)))
    targets = [node.target for node in gm.graph.nodes]
    assert targets.count(torch.ops.aten.copy_.default) == 4


def shared_by_the_first(x: Tensor, *weights: Tensor) -> Tensor:
    """The first block gets one tensor twice, in two disguises, later ones get two."""
    scale = x.view(2, WIDTH)
    for weight in weights:
        x = block(x, weight, scale)
        scale = weight.neg()
    return x


@pytest.mark.slow
@pytest.mark.parametrize("forward", [two_chains, shared_by_the_first])
def test_inductor_computes_the_same(forward: Blocks) -> None:
    arguments = values(6)
    expected = run(traced(forward, *arguments), arguments)
    gm = fold_repeats(traced(forward, *arguments))
    if not isinstance(gm.graph.output_node().args[0], tuple | list):
        gm.graph.output_node().args = ((gm.graph.output_node().args[0],),)
        gm.recompile()
    with torch.no_grad():
        compiled = compile_with_inductor(gm, arguments, {})
        results = list(compiled(*arguments))
    torch.testing.assert_close(results, expected)


steps = st.lists(
    st.tuples(st.sampled_from(["mul", "add", "maximum"]), st.integers(0, 3)),
    min_size=1,
    max_size=4,
)


@given(body=steps, blocks=st.integers(2, 6), share=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_any_blocks_keep_their_values(
    body: list[tuple[str, int]], blocks: int, share: int
) -> None:
    """Blocks of random ops that read the stream, a weight, and recent values."""

    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        recent = [x, x.exp(), x.sin(), x.cos()]
        for i, weight in enumerate(weights):
            for _ in range(SHORTEST // len(body) + 1):
                for name, operand in body:
                    other = (weight, x, recent[share], recent[-1])[operand]
                    x = getattr(torch, name)(x.tanh(), other)
            if i % (share + 1) == 0:
                recent.append(x)
        return x

    arguments = values(blocks + 1)
    gm = traced(forward, *arguments)
    (expected,) = run(gm, arguments)
    (result,) = run(fold_repeats(gm), arguments)
    assert torch.equal(result, expected)
