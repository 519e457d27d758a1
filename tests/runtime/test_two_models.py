"""Two models that draw one image one after the other (Wan 2.2's form)."""

import contextlib
import copy
from itertools import islice
from typing import Any

import pytest
import torch
from denoising import compiled, guided_steps, run, small_glyph, steps_of
from pipelines import videos
from pipelines.base import randomize
from torch import Tensor

import rfc_compile

TARGET, STEPS = 8, 28
SWITCH, FIRST_OF_SECOND = 600.0, 10


def two_models(**options: Any) -> list[Any]:
    torch.compiler.reset()
    model = small_glyph()
    return [compiled(copy.deepcopy(model), **options) for _ in range(2)]


def in_turn(models: list[Any]) -> Any:
    """The first model where there is much noise, the second one for the rest."""

    def denoise(x: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        model = models[0 if float(timestep[0]) > SWITCH else 1]
        return model(x, timestep=timestep, class_labels=class_labels)

    return denoise


def full_steps(model: Any) -> list[int]:
    made = rfc_compile.stats(model).decisions
    return sorted({one.step for one in made if one.full})


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("guided", [False, True], ids=["alone", "guided"])
def test_a_second_model_continues_the_run(named: bool, guided: bool) -> None:
    """Both together take as many full steps as asked for, of every image."""
    models = two_models(target_nfc=TARGET)
    drawn = []
    for _ in range(2):
        name = rfc_compile.trajectory("image", num_steps=STEPS)
        with name if named else contextlib.nullcontext():
            if guided:
                *_, last = guided_steps(in_turn(models), steps=STEPS)
            else:
                last = run(in_turn(models), steps=STEPS)
        drawn.append(last)
        first, second = map(full_steps, models)
        assert first[0] == 0
        assert len(first) + len(second) == TARGET
        assert max(first) < min(second) == FIRST_OF_SECOND
    assert torch.equal(*drawn)


def test_models_that_are_called_at_every_step_have_runs_of_their_own() -> None:
    """A weaker model that guides (autoguidance) begins with the image."""
    models = two_models(target_nfc=TARGET)

    def denoise(x: Tensor, **given: Any) -> Any:
        weak, strong = (model(x, **given) for model in models)
        strong.sample = strong.sample + 0.5 * (strong.sample - weak.sample)
        return strong

    with rfc_compile.trajectory("image", num_steps=STEPS):
        run(denoise, steps=STEPS)
    assert [len(full_steps(model)) for model in models] == [TARGET, TARGET]


def test_another_image_does_not_continue_the_run() -> None:
    """The second model draws one from less noise while the first has not ended."""
    models = two_models(target_nfc=TARGET)
    list(islice(steps_of(models[0], steps=STEPS), 5))
    run(models[1], steps=STEPS, first=12, seed=3)
    assert full_steps(models[1])[0] == 0


def test_the_pipeline_of_two_models() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    pipe = videos.wan(transformer_2=videos.wan_transformer(), boundary_ratio=0.875)
    models = pipe.transformer, pipe.transformer_2
    for model in models:
        randomize(model)
        model.compile(backend="rfc", options={"inner": "eager", "target_nfc": TARGET})
    pipe.set_progress_bar_config(disable=True)
    pipe(**{**videos.wan_call(), "num_inference_steps": STEPS})
    first, second = map(full_steps, models)
    assert len(first) + len(second) <= TARGET
    assert max(first) < min(second)
