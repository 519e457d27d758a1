"""`rfc-compile inspect`: one clear line for what it is not to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspecting import FACTORY, Inspect, model_folder


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    return Inspect(capsys)


def test_a_bad_model_is_one_line(
    inspect: Inspect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inspect("no/such/folder").error.endswith(
        "no such folder, and neither a hub id (owner/name) nor package.module:factory"
    )


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    name = f"factory_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("missing", ["AttributeError", "missing"]),
        ("fails", ["RuntimeError: no weights here"]),
        ("half", ["must return (model, inputs)"]),
        ("number", ["TypeError"]),
        ("wrong_inputs", ["the forward of Small fails", "x (1, 4, 7)"]),
    ],
)
def test_a_bad_factory_is_one_line(
    function: str, words: list[str], factory: str, inspect: Inspect
) -> None:
    error = inspect(f"{factory}:{function}").error
    assert all(word in error for word in words), error


def test_a_factory_may_give_inputs_in_order(factory: str, inspect: Inspect) -> None:
    found = inspect.json(f"{factory}:in_order")
    assert found["inputs"] == {"0": [1, 4, 8], "1": [1]}
    assert found["regions"] == []
    assert "no attention or MLP" in found["uncached_reasons"][0]


def test_a_factory_takes_no_sizes(factory: str, inspect: Inspect) -> None:
    assert "not for a factory" in inspect(f"{factory}:small", "--batch", 2).error
    assert "no_such_module" in inspect("no_such_module:make").error


CONFIGS = {
    "no_config": (None, "neither config.json nor transformer/config.json"),
    "no_json": ("{", "is not JSON"),
    "a_list": ("[]", "is not a model's config"),
    "no_class": ('{"num_layers": 2}', "_class_name=None"),
    "unknown_class": ('{"_class_name": "NoSuchModel"}', "_class_name='NoSuchModel'"),
    "no_model": ('{"_class_name": "DDIMScheduler"}', "is not a model"),
    "wrong_value": (
        '{"_class_name": "DiTTransformer2DModel", "norm_type": "none"}',
        "cannot be built from its config",
    ),
}


@pytest.mark.parametrize(("config", "words"), CONFIGS.values(), ids=CONFIGS)
def test_a_bad_config_is_one_line(
    config: str | None, words: str, inspect: Inspect, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert words in inspect(tmp_path).error


def test_a_class_without_rules_asks_for_a_factory(
    inspect: Inspect, tmp_path: Path
) -> None:
    error = inspect(model_folder("Cosmos3OmniTransformer", tmp_path)).error
    assert "Cosmos3OmniTransformer: no rule makes its input 'input_ids'" in error
    assert "give package.module:factory" in error


def test_a_size_that_the_model_cannot_take_is_one_line(
    inspect: Inspect, tmp_path: Path
) -> None:
    folder = model_folder("WanTransformer3DModel", tmp_path)  # positions up to 32
    error = inspect(folder, "--height", 200).error
    assert "the forward of WanTransformer3DModel fails" in error
    assert "hidden_states (1, 4, 21, 200, 64)" in error


def test_an_unknown_hub_id_is_one_line(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing: no such folder" in inspect("nobody/nothing").error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--batch", "0"], "--batch"),
        (["--height", "1.5"], "--height"),
        (["--frames", "many"], "--frames"),
        (["--dtype", "int8"], "--dtype"),
        (["--options", "order"], "name=value"),
        (["--options", "order=7"], "order=7"),
        (["--options", "odrer=1"], "did you mean 'order'"),
        (["--options", "estimator=taylro"], "did you mean 'taylor'"),
        (["--graph", "no/such/folder/out.svg"], "--graph"),
        (["--graph", "."], "--graph"),
    ],
)
def test_a_bad_argument_is_one_line(
    arguments: list[str], word: str, inspect: Inspect, tmp_path: Path
) -> None:
    assert word in inspect(tmp_path, *arguments).error


def test_a_failure_leaves_no_picture(inspect: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "out.svg"
    assert inspect(tmp_path / "none", "--graph", path).error
    assert not path.exists()
