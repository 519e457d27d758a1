"""`rfc-compile inspect`: what it finds, prints and draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from denoisers import ALL
from inspecting import FACTORY, MODULES, Inspect, model_folder, process
from paths import ROOT
from torch import nn

import rfc_compile
from rfc_compile.config.options import Options
from rfc_compile.tools.inspection.dry_run import dry_run
from rfc_compile.tools.inspection.model_inputs import make_inputs
from rfc_compile.tools.inspection.weightless import build_without_weights

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    return Inspect(capsys)


def test_it_prints_and_draws(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("SD3Transformer2DModel", tmp_path)
    monkeypatch.chdir(tmp_path)
    result = inspect(folder, "--graph", "streams.svg")
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    first, inputs, summary, header, *rows = result.out.splitlines()
    assert re.fullmatch(r"SD3Transformer2DModel, \d+,\d+ parameters, bfloat16", first)
    assert inputs.startswith("inputs: hidden_states (1, 4, 8, 8), encoder_hidden_st")
    assert summary.startswith("1 graph; cached steps predict 1 region with ")
    assert header.split()[:3] == ["region", "kind", "module"]
    (region,) = (row.split() for row in rows if row.startswith("region_"))
    assert region[1] == "stack"
    assert "timestep input: timestep" in rows
    assert re.fullmatch(r"\d+\.\d% of the repeated blocks' FLOPs .*", rows[-1])
    assert (tmp_path / "streams.svg").stat().st_size > 1000


def test_a_process_finds_a_factory_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    result = process("mine:small", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "no attention or MLP on a residual stream" in result.stdout
    assert "inputs: x (1, 4, 8), timestep (1,)" in result.stdout


SERVED = (
    "AuraFlowTransformer2DModel",
    "CogVideoXTransformer3DModel-1.5",
    "FluxTransformer2DModel-guidance",
    "LTXVideoTransformer3DModel",
    "Lumina2Transformer2DModel",
    "PixArtTransformer2DModel-alpha",
    "WanTransformer3DModel-i2v",
    "ZImageTransformer2DModel",
)


@pytest.mark.parametrize("name", SERVED)
def test_the_config_alone_tells_the_regions(
    name: str, inspect: Inspect, tmp_path: Path
) -> None:
    options = (*MODULES, "--options", "min_coverage=0")
    assert_regions(name, inspect.json(model_folder(name, tmp_path), *options))


def assert_regions(name: str, found: dict[str, Any]) -> None:
    assert len(found["regions"]) == ALL[name].regions
    assert found["graphs"] == ALL[name].graphs
    assert found["block_coverage"] >= ALL[name].share
    assert found["graph_breaks"] or found["graphs"] == 1


def test_a_pipeline_folder_holds_the_model(inspect: Inspect, tmp_path: Path) -> None:
    name = "DiTTransformer2DModel"
    model_folder(name, tmp_path).rename(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    found = inspect.json(tmp_path)
    assert (found["model"], len(found["regions"])) == (name, 1)
    found = inspect.json(tmp_path, *MODULES)
    assert (found["model"], len(found["regions"])) == (name, 4)


def test_it_tells_what_explain_tells(inspect: Inspect, tmp_path: Path) -> None:
    """Of a model with weights that was compiled and called, at the same sizes."""
    denoiser = ALL["DiTTransformer2DModel"]
    sizes = ("--batch", 2, "--height", 8, "--width", 8, "--dtype", "float32")
    found = inspect.json(model_folder(denoiser.name, tmp_path), *sizes)
    model = denoiser.model()
    options = {"inner": "eager", "schedule": "interval"}
    compiled = torch.compile(model, backend="rfc", options=options)
    with torch.no_grad():
        compiled(**denoiser.first_call())
    explanation = rfc_compile.explain(compiled)
    assert found["cache_bytes"] == explanation.cache_bytes > 0
    assert found["coverage"] == explanation.coverage
    for item, region in zip(found["regions"], explanation.regions, strict=True):
        for attribute, value in item.items():
            assert value == getattr(region, attribute)


def test_sizes_and_options_change_the_state(inspect: Inspect, tmp_path: Path) -> None:
    folder = model_folder("SanaTransformer2DModel", tmp_path)
    usual = inspect.json(folder, *MODULES)
    assert usual["inputs"]["hidden_states"] == [1, 4, 4, 4]  # its sample_size
    given = ("--batch", 3, "--height", 8, "--width", 6, "--text-tokens", 5)
    larger = inspect.json(folder, *MODULES, *given)
    assert larger["inputs"]["hidden_states"] == [3, 4, 8, 6]
    assert larger["inputs"]["encoder_hidden_states"] == [3, 5, 16]
    # three float32 numbers per sample and output are the same for more tokens
    statistics = 3 * 4 * sum(region["outputs"] for region in usual["regions"])
    tokens = usual["cache_bytes"] - statistics
    assert larger["cache_bytes"] == 9 * tokens + 3 * statistics
    reuse = inspect.json(folder, *MODULES, "--options", "estimator=reuse")
    assert 0 < reuse["cache_bytes"] < usual["cache_bytes"]
    stack = inspect.json(folder)
    assert 0 < stack["cache_bytes"] < usual["cache_bytes"]


def test_twelve_billion_weights_take_no_memory() -> None:
    from diffusers import FluxTransformer2DModel

    model = build_without_weights(FluxTransformer2DModel, torch.bfloat16)
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == 11_891_178_560
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert all(p.is_contiguous() and not p.is_meta for p in parameters)
    memory = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in parameters}
    assert sum(storage.nbytes() for storage in memory.values()) < 2**28
    assert torch.get_default_dtype() is torch.float32


def test_what_diffusers_keeps_in_float32_stays_so() -> None:
    from diffusers import WanTransformer3DModel

    model = build_without_weights(
        lambda: ALL["WanTransformer3DModel"].build(),
        torch.bfloat16,
        WanTransformer3DModel._keep_in_fp32_modules,
    )
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert dtypes["blocks.0.scale_shift_table"] is torch.float32
    assert dtypes["blocks.0.attn1.to_q.weight"] is torch.bfloat16


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.head.weight = self.embed.weight
            self.register_buffer("table", torch.empty(3))

    model: Any = build_without_weights(Tied, torch.float16)
    assert model.head.weight is model.embed.weight
    assert not model.table.is_meta


def test_the_picture_shows_streams_and_regions(
    inspect: Inspect, tmp_path: Path
) -> None:
    path = tmp_path / "flux.svg"
    folder = model_folder("FluxTransformer2DModel", tmp_path)
    found = inspect.json(folder, *MODULES, "--graph", path)
    texts = texts_of(path)
    for region in found["regions"]:
        share = f"{region['flops'] / found['flops']:.1%}"
        label = f"{region['module']} ({region['kind']})  {share}"
        assert texts.count(label) == 1
    streams = [text for text in texts if text.startswith("stream of ")]
    names = ("hidden_states", "encoder_hidden_states")
    assert streams == [f"stream of {x}" for x in (*names, " + ".join(names))]


def test_a_stack_hangs_on_its_stream(inspect: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "flux.svg"
    folder = model_folder("FluxTransformer2DModel", tmp_path)
    inspect.json(folder, "--graph", path)
    texts = texts_of(path)
    assert any(re.search(r"\(stack\)  \d+\.\d%$", text) for text in texts)
    assert "stream of hidden_states + encoder_hidden_states" in texts


def texts_of(path: Path) -> list[str]:
    """What stands in an SVG."""
    found = ET.parse(path).iter(f"{SVG}text")
    return ["".join(text.itertext()).strip() for text in found]


def test_the_picture_shows_what_is_refused(inspect: Inspect, tmp_path: Path) -> None:
    path, name = tmp_path / "audio.svg", "StableAudioDiTModel"
    found = inspect.json(model_folder(name, tmp_path), *MODULES, "--graph", path)
    assert_regions(name, found)
    assert found["refused"]
    page = "\n".join(texts_of(path))
    for item in found["refused"]:
        assert f"refused: {item['candidate']}: {item['reason']}" in page


@pytest.mark.parametrize(
    ("name", "start"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")]
)
def test_the_ending_says_the_format(
    name: str, start: bytes, inspect: Inspect, tmp_path: Path
) -> None:
    path = tmp_path / name
    result = inspect(model_folder("DiTTransformer2DModel", tmp_path), "--graph", path)
    assert path.read_bytes().startswith(start)
    assert result.err == f"Written: {path}\n"


def test_another_ending_is_refused_first(inspect: Inspect, tmp_path: Path) -> None:
    error = inspect(tmp_path, "--graph", tmp_path / "a.bmp").error
    assert "give a file that ends in .svg, .png, .pdf" in error


def test_a_broken_forward_gets_its_numbers() -> None:
    """A graph fragment returns shapes only; numbers that Python reads are computed."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            lengths = mask.sum(dim=1)
            x = self.linear(x)
            assert lengths.tolist() == [3, 2]
            return self.linear(x[:, : int(lengths.max())])

    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    found = dry_run(Broken(), (torch.ones(2, 5, 4), mask), Options())
    assert found.explanation.graphs == 2
    assert found.explanation.regions == ()


def test_no_input_is_made_twice() -> None:
    """Two samples of a list are two tensors, as a compiler guards on it."""
    model = ALL["ZImageTransformer2DModel"].build()
    first, second = make_inputs(model, {"batch": 2}, torch.float32)["x"]
    assert first is not second


def test_the_coverage_document_lists_every_denoiser() -> None:
    lines = (ROOT / "docs" / "COVERAGE.md").read_text().splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if "|" in line]
    assert rows[2:] == list(ALL)
    assert any("make coverage" in line for line in lines)
