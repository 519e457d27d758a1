"""What cannot be cached: the inner backend's result, one warning, the reason kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, run, small_glyph
from denoising import steps_of as latents
from torch import Tensor, nn
from torch.nn import functional as F

import rfc_compile


class LanguageBlock(nn.Module):
    """A decoder block: causal attention and MLP on a residual stream, no timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.mlp(x)


class ResidualMLP(nn.Module):
    """Features in, features out: no tokens, no timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


class ResidualConvNet(nn.Module):
    """A convnet with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.second(x.relu())


class TimedConvStem(nn.Module):
    """Takes a timestep, but has no residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.conv(x) * timestep.float().sin()[:, None, None, None]


OTHERS: list[tuple[type[nn.Module], Callable[[], tuple[Tensor, ...]], str]] = [
    (LanguageBlock, lambda: (torch.arange(10)[None],), "no latent input"),
    (ResidualMLP, lambda: (torch.randn(4, 8),), "single linear map"),
    (ResidualConvNet, lambda: (torch.randn(2, 3, 8, 8),), "single linear map"),
    (
        TimedConvStem,
        lambda: (torch.randn(2, 3, 8, 8), torch.tensor([5, 5])),
        "no attention or MLP",
    ),
]


@pytest.mark.parametrize(("kind", "inputs", "reason"), OTHERS)
def test_other_models_run_uncached(
    kind: type[nn.Module], inputs: Callable[[], tuple[Tensor, ...]], reason: str
) -> None:
    torch.manual_seed(0)
    model, values = kind().eval(), inputs()
    rfc = compiled(model)
    with torch.no_grad(), pytest.warns(rfc_compile.UncachedWarning, match=reason):
        result = rfc(*values)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert torch.equal(rfc(*values), model(*values))
    assert torch.equal(result, model(*values))
    (found,) = rfc_compile.explain(model).uncached_reasons
    assert reason in found
    assert reason in str(rfc_compile.explain(rfc))
    assert rfc_compile.stats(rfc).steps == 0


def first_step(model: Any) -> Tensor:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([900, 900])
    return model(x, timestep=timestep, class_labels=LABELS).sample


def test_training_runs_uncached_with_gradients() -> None:
    model = small_glyph().requires_grad_(requires_grad=True)
    rfc = compiled(model, inner="aot_eager")
    with pytest.warns(rfc_compile.UncachedWarning, match=r"torch\.no_grad"):
        first_step(rfc).square().mean().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    first_step(model).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    assert "gradients" in rfc_compile.explain(rfc).uncached_reasons[0]


def test_an_input_that_requires_grad_runs_uncached() -> None:
    rfc = compiled(small_glyph(), inner="aot_eager")
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    with pytest.warns(rfc_compile.UncachedWarning, match="gradients"):
        out = rfc(x, timestep=torch.tensor([900, 900]), class_labels=LABELS).sample
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_random_numbers_in_training_mode_run_uncached() -> None:
    """Class dropout draws random numbers in training mode, gradients or not."""
    model = small_glyph().train()
    rfc = compiled(model)
    results = []
    for each in (rfc, model):
        torch.manual_seed(3)
        with torch.no_grad(), warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            results.append(first_step(each))
        if each is rfc:
            assert any("model.eval()" in str(warning.message) for warning in seen)
    assert torch.equal(*results)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("schedule", ["interval", "rcs"])
def test_non_finite_latents_run_uncached(schedule: str, value: float) -> None:
    """The outputs of the plain model, one warning, and the next run is clean."""
    model = small_glyph()
    rfc = compiled(schedule=schedule, threshold=0.6)
    clean = run(rfc, seed=1)
    rfc_compile.reset(rfc)
    steps = latents(rfc, seed=5)
    for _ in range(6):
        x = next(steps)
    x = x.clone()
    x[0, 0, 0, 0] = value
    inputs = {"timestep": torch.tensor(650).expand(2), "class_labels": LABELS}
    with torch.no_grad(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = [rfc(x, **inputs).sample for _ in range(2)]
        expected = model(x, **inputs).sample
    for sample in found:
        torch.testing.assert_close(sample, expected, equal_nan=True, rtol=0, atol=1e-6)
    (warning,) = [w for w in seen if w.category is rfc_compile.UncachedWarning]
    assert "NaN" in str(warning.message)
    last = rfc_compile.stats(rfc).decisions[-1]
    assert (last.full, last.reason) == (True, "non_finite")
    assert "NaN" in rfc_compile.explain(rfc).uncached_reasons[-1]
    assert torch.equal(run(rfc, seed=1), clean)


def test_a_wrong_timestep_name_lists_the_inputs() -> None:
    rfc = compiled(timestep="step")
    with pytest.warns(rfc_compile.UncachedWarning, match="class_labels"):
        run(rfc, steps=2)


def test_little_coverage_runs_uncached() -> None:
    rfc = compiled(min_coverage=1.0)
    with pytest.warns(rfc_compile.UncachedWarning, match="min_coverage=1"):
        result = run(rfc, steps=4)
    assert torch.equal(result, run(small_glyph(), steps=4))


def test_a_healthy_run_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        rfc = compiled(threshold=0.6)
        run(rfc)
    assert rfc_compile.explain(rfc).uncached_reasons == ()
