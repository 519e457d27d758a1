"""What users see of the backend: explain, stats, the log and the trace."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from denoising import LABELS, compiled, run, small_glyph
from diffusers import DiTTransformer2DModel
from models import Stack, build, timesteps, tokens
from options import MODULES
from original_forms import Decoupled
from paths import SUPPORT
from torch import nn

import rfc_compile
from rfc_compile.report.numbers import scaled, size
from rfc_compile.report.statistics import REASONS
from rfc_compile.tools.measure import glyph_dit

STEPS = 20
OPTIONS = {"threshold": 0.6, "warmup": 2}
PASSES = ["dynamo", "functionalize", "outline", "conditional", "hoist_predicate"]

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from denoising import compiled, run
import rfc_compile
model = compiled(**{options})
run(model, steps={steps})
print(rfc_compile.stats(model).nfc)
"""


class Observed(NamedTuple):
    """What a process that draws a few steps says."""

    nfc: int
    log: str
    trace: str


@pytest.fixture(scope="module", params=["rcs", "interval"])
def observed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Observed]:
    folder = tmp_path_factory.mktemp("trace")
    options = {**OPTIONS, "schedule": request.param}
    program = PROGRAM.format(options=options, steps=STEPS)
    result = subprocess.run(
        [sys.executable, "-c", program, str(SUPPORT)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TORCH_LOGS": "+rfc_compile", "TORCH_TRACE": str(folder)},
    )
    assert result.returncode == 0, result.stderr
    (trace,) = folder.iterdir()
    return request.param, Observed(int(result.stdout), result.stderr, trace.read_text())


def expected_names(schedule: str) -> list[str]:
    """Passes and graphs in order; only a schedule that looks at the input probes."""
    graphs = ["probe", "full", "cached"] if schedule == "rcs" else ["full", "cached"]
    return PASSES + graphs


def test_the_log_has_a_line_per_pass(observed: tuple[str, Observed]) -> None:
    schedule, (_, log, _) = observed
    lines = re.findall(
        r"rfc_compile/compiler/graph_dumps\.py.*\] after (\w+): (\d+) nodes$", log, re.M
    )
    assert [name for name, _ in lines] == expected_names(schedule)
    assert all(int(size) > 20 for _, size in lines)


def test_the_log_has_a_line_per_decision(observed: tuple[str, Observed]) -> None:
    schedule, (nfc, log, _) = observed
    number = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    lines = re.findall(
        rf"\] thread \d+ step (\d+) branch 0 t=({number}): (full|cached) "
        rf"\((\w+), e=({number}|None)\)$",
        log,
        re.M,
    )
    assert len(lines) == log.count(" branch ") == STEPS
    assert [int(step) for step, *_ in lines] == list(range(STEPS))
    timesteps = glyph_dit.make_scheduler("ddim", STEPS).timesteps.tolist()
    assert [float(t) for _, t, *_ in lines] == timesteps
    full = [kind == "full" for *_, kind, _, _ in lines]
    assert sum(full) == nfc
    assert full[:2] == [True, True]
    assert not all(full)
    assert [reason for *_, reason, _ in lines[:2]] == ["warmup"] * 2
    cached = {reason for *_, kind, reason, _ in lines if kind == "cached"}
    assert cached == {"within_limit" if schedule == "rcs" else "scheduled"}
    if schedule == "rcs":
        assert lines[0][-1] == "None"
        assert all(float(error) > 0 for *_, error in lines[1:])


def test_the_trace_holds_every_graph(observed: tuple[str, Observed]) -> None:
    schedule, (_, _, trace) = observed
    expected = [f"rfc_{i:02d}_{n}" for i, n in enumerate(expected_names(schedule))]
    names, sources = [], []
    records = re.split(r"^V\d.*?\] (?=\{)", trace, flags=re.M)[1:]
    for record in records:
        header, _, payload = record.partition("\n")
        name = json.loads(header).get("artifact", {}).get("name", "")
        if name.startswith("rfc_"):
            names.append(name)
            sources.append(payload)
    assert names == expected
    for name, source in zip(names, sources, strict=True):
        assert "def forward(" in source, name
    by_name = dict(zip((name[7:] for name in names), sources, strict=True))
    assert "scaled_dot_product_attention" in by_name["full"]
    assert "scaled_dot_product_attention" not in by_name["cached"]


def test_dumps_hold_no_weights(observed: tuple[str, Observed]) -> None:
    """Neither log nor trace: names, shapes and constants of the graphs alone."""
    _, (_, log, trace) = observed
    weights = [weight.flatten()[:50] for weight in small_glyph().parameters()]
    digits = [repr(abs(value))[:11] for w in weights for value in w.tolist()]
    for dump in (log, trace):
        assert "tensor([" not in dump
        assert not [number for number in digits if len(number) > 9 and number in dump]


def test_nothing_is_explained_before_the_first_call() -> None:
    model = compiled()
    explanation = rfc_compile.explain(model)
    assert explanation == rfc_compile.Explanation(0, (), 0.0, 0.0, (), (), (), (), ())
    assert explanation.cache_bytes == 0
    assert str(explanation).startswith("nothing to explain: no graph of this model")
    assert rfc_compile.stats(model) == rfc_compile.Statistics()
    assert str(rfc_compile.stats(model)) == "no step yet"


def matmul(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def test_region_flops_are_those_of_the_shapes() -> None:
    """Counted by hand: two images of 64 tokens, 128 wide, 4 heads of 32."""
    batch, tokens, width, heads, hidden = len(LABELS), (32 // 4) ** 2, 128, 4, 512
    rows = batch * tokens
    projections = 4 * matmul(rows, width, width)  # q, k, v and out
    scores = batch * heads * matmul(tokens, width // heads, tokens)
    weighted = batch * heads * matmul(tokens, tokens, width // heads)
    attention = projections + scores + weighted
    mlp = matmul(rows, width, hidden) + matmul(rows, hidden, width)

    model = compiled(**OPTIONS, **MODULES)
    run(model, steps=3)
    explanation = rfc_compile.explain(model)
    assert [(r.kind, r.module, r.flops) for r in explanation.regions] == [
        ("attention", "transformer_blocks.0.attn1", attention),
        ("mlp", "transformer_blocks.0.ff", mlp),
        ("attention", "transformer_blocks.1.attn1", attention),
        ("mlp", "transformer_blocks.1.ff", mlp),
    ]
    # outside them: embeddings, modulation and the patches at both ends
    inside = 2 * (attention + mlp)
    patches = matmul(rows, 3 * 4 * 4, width)
    head = matmul(batch, width, 2 * width) + matmul(rows, width, 3 * 4 * 4)
    embed = matmul(batch, 256, width) + matmul(batch, width, width)
    modulation = matmul(batch, width, 6 * width)
    total = inside + patches + head + 2 * (embed + modulation)
    assert explanation.coverage == pytest.approx(inside / total, abs=0.005)
    assert 0 < explanation.coverage < 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "reuse"},
        {"estimator": "taylor", "order": 1},
        {"schedule": "interval"},
    ],
    ids=["default", "reuse", "taylor", "interval"],
)
def test_the_predicted_state_is_the_state_held(options: dict[str, Any]) -> None:
    """That of the regions, and the latent beside it."""
    model = compiled(**options)
    run(model)
    stats = rfc_compile.stats(model)
    assert {decision.branch for decision in stats.decisions} == {0}
    explanation = rfc_compile.explain(model)
    predicted = explanation.cache_bytes
    latent = len(LABELS) * 3 * 32 * 32 * 4
    assert stats.cache_bytes == predicted
    assert predicted == sum(r.cache_bytes for r in explanation.regions) + latent
    text = str(rfc_compile.explain(model))
    assert f"; {size(predicted)} of state for each guidance branch" in text


def test_the_table_names_every_region() -> None:
    model = compiled(**OPTIONS, **MODULES)
    run(model, steps=3)
    explanation = rfc_compile.explain(model)
    assert len(explanation.regions) == 4
    first, header, *rows = str(explanation).splitlines()
    assert first.startswith("1 graph; cached steps predict 4 regions with ")
    assert f"{explanation.coverage:.1%} of the FLOPs" in first
    assert header.split() == ["region", "kind", "module", "work", "state"]
    for region, row in zip(explanation.regions, rows, strict=False):
        name, kind, module, *amounts = row.split()
        assert [name, kind, module] == [region.name, region.kind, region.module]
        wanted = f"{scaled(region.flops, 'FLOP')} {size(region.cache_bytes)}"
        assert " ".join(amounts) == wanted
    assert "timestep input: timestep" in rows
    assert str(explanation.cached_step) in rows
    assert all(region.cache_bytes > 0 for region in explanation.regions)


def test_what_a_cached_step_still_runs() -> None:
    """The modulations between two regions feed only the second one: they do not run."""
    model = compiled(build(Decoupled), granularity="block")
    with torch.no_grad():
        for t in range(9, 5, -1):
            model(tokens(), timesteps(t))
    explanation = rfc_compile.explain(model)
    step = explanation.cached_step
    assert step is not None
    assert step.flops < 1 - explanation.coverage
    assert "embed" in step.modules
    assert 0 < step.operations < step.full_operations
    assert step.time is None or step.time > 0
    uncalled = rfc_compile.explain(compiled(build(Stack)))
    assert uncalled.cached_step is None


def test_statistics_in_a_few_lines() -> None:
    model = compiled(**OPTIONS)
    run(model, steps=STEPS)
    stats = rfc_compile.stats(model)
    reasons = [(d.full, d.reason) for d in stats.decisions]
    text = str(stats)
    first, full_line, cached_line = text.splitlines()
    cached = STEPS - stats.nfc
    assert first == (
        f"{STEPS} steps: {stats.nfc} full, {cached} cached ({STEPS / stats.nfc:.1f}x "
        f"fewer), about {stats.estimated_psnr:.0f} dB on average; "
        f"{size(stats.cache_bytes)} of state held"
    )
    for full, reason in set(reasons):
        line = full_line if full else cached_line
        assert f"{reasons.count((full, reason))} {reason} ({REASONS[reason]})" in line
    assert {name for name, s in stats.graph_seconds.items() if s > 0} >= {"full"}


def narrow_dit() -> nn.Module:
    """One block, 64 wide, with random weights and open gates."""
    torch.manual_seed(0)
    config = DiTTransformer2DModel.load_config(glyph_dit.MODEL_FOLDER)
    sizes = {"num_layers": 1, "num_attention_heads": 2}
    model: nn.Module = DiTTransformer2DModel.from_config({**config, **sizes})
    return model.eval().requires_grad_(False)


def test_a_graph_that_is_compiled_again_is_explained_once() -> None:
    """What is shown is the graph that ran last: of another length, or uncached."""
    model = torch.compile(build(Stack), backend="rfc", options={"inner": "eager"})
    with torch.no_grad():
        model(tokens(), timesteps(9))
        once = rfc_compile.explain(model)
        model(tokens()[:, 1:], timesteps(9))
    shorter = rfc_compile.explain(model)
    assert (once.graphs, once.parts) == (1, 1)
    assert (shorter.graphs, shorter.parts) == (2, 1)
    assert len(shorter.regions) == len(once.regions) == len(shorter.maps)
    assert str(shorter).startswith("1 graph, of 2 compiled for different inputs;")
    assert str(shorter).count("timestep input: t") == 1
    model(tokens().requires_grad_(), timesteps(9))
    with_gradients = rfc_compile.explain(model)
    assert not with_gradients.regions
    assert "gradients are wanted" in with_gradients.uncached_reasons[0]
    with torch.no_grad():
        model(tokens(), timesteps(8))
    again = rfc_compile.explain(model)
    assert again.regions == once.regions
    assert again.uncached_reasons == (
        f"for other inputs, {with_gradients.uncached_reasons[0]}",
    )


def test_models_are_explained_one_by_one() -> None:
    options = {**OPTIONS, **MODULES}
    wide, narrow = compiled(small_glyph(), **options), compiled(narrow_dit(), **options)
    run(wide)
    assert rfc_compile.explain(narrow).graphs == 0
    run(narrow, steps=25)
    of_wide, of_narrow = rfc_compile.explain(wide), rfc_compile.explain(narrow)
    assert (of_wide.graphs, len(of_wide.regions)) == (1, 4)
    assert (of_narrow.graphs, len(of_narrow.regions)) == (1, 2)
    assert of_narrow.regions[0].flops < of_wide.regions[0].flops
    assert not set(of_wide.regions) & set(of_narrow.regions)
    assert rfc_compile.stats(wide).steps == 20
    assert rfc_compile.stats(narrow).steps == 25


def test_none_stands_for_every_model() -> None:
    gc.collect()  # what earlier tests compiled
    before = rfc_compile.explain()
    wide, narrow = compiled(small_glyph(), **OPTIONS), compiled(narrow_dit(), **OPTIONS)
    run(wide)
    run(narrow, steps=25)
    of_wide, of_narrow = rfc_compile.explain(wide), rfc_compile.explain(narrow)
    everything = rfc_compile.explain(None)
    assert everything == rfc_compile.explain()
    assert everything.graphs == before.graphs + 2
    assert set(everything.regions) >= {*of_wide.regions, *of_narrow.regions}
    assert 0 < everything.coverage < 1
    assert everything.uncached_reasons == before.uncached_reasons
    reasons = before.uncached_reasons
    last = replace(rfc_compile.stats(narrow), uncached_reasons=reasons)  # it ran last
    assert rfc_compile.stats(None) == last
    run(wide)
    assert rfc_compile.stats() == replace(
        rfc_compile.stats(wide), uncached_reasons=reasons
    )
