"""The trained models: they load, and every scheduler draws with them alike."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rfc_compile.errors import OptionError
from rfc_compile.tools.measure import emoji_flux, glyph_dit, motion_hunyuan
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.denoising import Guidance, denoise
from rfc_compile.tools.measure.schedulers import flow_schedulers
from rfc_compile.tools.measure.trained_model import TrainedModel
from rfc_compile.tools.measure.word_table import WordTable, load_words

each_bundled = pytest.mark.parametrize("name", MODELS)


@functools.cache
def loaded(name: str) -> nn.Module:
    return MODELS[name].load()


def draw(name: str, **settings: Any) -> Tensor:
    trained = MODELS[name]
    arguments = {"seed": 3, "steps": 3, **settings}
    count = arguments.pop("count", 2)
    return trained.sample(loaded(name), trained.conditions(count), **arguments)


def test_the_models_come_with_the_package() -> None:
    assert all(
        list(model.folder.glob("diffusion*.safetensors")) for model in MODELS.values()
    )


@each_bundled
def test_weights_are_small_and_in_half_precision(name: str) -> None:
    (file,) = MODELS[name].folder.glob("diffusion*.safetensors")
    assert file.stat().st_size < 24 * 2**20
    model = MODELS[name].load(torch.bfloat16)
    assert not model.training
    for part, parameter in model.named_parameters():
        assert parameter.isfinite().all(), part
        assert not parameter.requires_grad


@each_bundled
def test_a_card_says_what_it_is_and_shows_it(name: str) -> None:
    card = (MODELS[name].folder / "README.md").read_text()
    assert card.startswith(f"# {name}")
    assert name == "glyph-dit" or (MODELS[name].folder / "sheet.png").stat().st_size


def test_the_sources_of_the_emoji_are_named() -> None:
    card = (MODELS["emoji-flux"].folder / "README.md").read_text()
    for source in ("Twemoji", "CC-BY 4.0", "Noto", "Apache-2.0", "Fluent", "MIT"):
        assert source in card


@each_bundled
def test_guidance_in_two_calls_draws_the_same(name: str) -> None:
    batched = draw(name, guidance=2.0)
    separate = draw(name, guidance=2.0, separate=True)
    torch.testing.assert_close(batched, separate, atol=2e-3, rtol=0)
    assert (batched - draw(name, guidance=1.0)).abs().max() > 1e-2


SAMPLERS = [
    *(("glyph-dit-epsilon", name) for name in ("ddim", "ddpm", "heun", "unipc")),
    *(("emoji-flux", name) for name in ("euler_dynamic", "unipc_shift3", "dpmpp_2m")),
]


@pytest.mark.parametrize(("name", "scheduler"), SAMPLERS)
def test_an_image_depends_on_its_seed_alone(name: str, scheduler: str) -> None:
    both = draw(name, scheduler=scheduler)
    assert both.isfinite().all()
    assert both.abs().max() <= 1
    trained = MODELS[name]
    second = trained.sample(
        loaded(name), trained.conditions(2)[1:], seed=4, steps=3, scheduler=scheduler
    )
    torch.testing.assert_close(both[1:], second, atol=0.02, rtol=0)


def test_digits_of_the_noise_model_are_nearly_of_two_colours() -> None:
    """Noise would differ from its neighbours everywhere."""
    images = draw("glyph-dit-epsilon", steps=12, scheduler="dpmpp_2m", count=1)
    assert (images[..., 1:] - images[..., :-1]).abs().median() < 0.1
    assert images.std() > 0.1


def test_samplers_keep_no_gradients() -> None:
    model = MODELS["emoji-flux"].make()
    images = MODELS["emoji-flux"].sample(model, ["red heart"], seed=0, steps=1)
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert not images.requires_grad


def test_a_clip_is_drawn_by_an_untrained_model(monkeypatch: pytest.MonkeyPatch) -> None:
    words = WordTable(
        motion_hunyuan.VOCABULARY, motion_hunyuan.LENGTH, motion_hunyuan.WIDTH
    )
    monkeypatch.setattr(motion_hunyuan, "words", lambda: words)
    trained = MODELS["motion-hunyuan"]
    model = trained.make().eval()
    conditions = trained.conditions(1)
    clips = [
        trained.sample(model, conditions, seed=0, steps=1, separate=separate)
        for separate in (False, True)
    ]
    assert clips[0].shape == (1, *motion_hunyuan.CLIP_SHAPE)
    torch.testing.assert_close(*clips, atol=1e-3, rtol=0)


def test_unknown_schedulers_and_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"choose from .*euler_shift3"):
        draw("emoji-flux", scheduler="ddim")
    with pytest.raises(ValueError, match=r"steps must be in 1..1000, not 0"):
        draw("emoji-flux", steps=0)


def test_weights_of_another_class_are_refused() -> None:
    with pytest.raises(ValueError, match="a DiTTransformer2DModel, not a Flux"):
        MODELS["emoji-flux"].load(folder=glyph_dit.MODEL_FOLDER)


def test_prompts_are_words_of_the_vocabulary() -> None:
    inputs, empty = emoji_flux.prompt_inputs(["Red apple!", "google red apple"])
    vectors = inputs["encoder_hidden_states"]
    assert vectors.shape == (2, emoji_flux.LENGTH, emoji_flux.WIDTH)
    assert torch.equal(vectors[0, 1:], vectors[1, 1:])  # but for the style
    assert not torch.equal(vectors[0, 0], vectors[1, 0])
    assert empty["pooled_projections"].abs().max() == 0
    with pytest.raises(OptionError, match=r"no word 'aple'; near ones: .*apple"):
        emoji_flux.prompt_inputs(["red aple"])
    with pytest.raises(OptionError, match="nothing is near it"):
        emoji_flux.prompt_inputs(["xqzw"])
    with pytest.raises(OptionError, match="has 11 words; at most 10"):
        emoji_flux.prompt_inputs(["google " + "red " * 10])


def test_every_example_is_known() -> None:
    for prompt in emoji_flux.EMOJI_FLUX.examples:
        emoji_flux.words().tokens([prompt])


def test_damaged_words_are_told(tmp_path: Path) -> None:
    folder = MODELS["emoji-flux"].folder
    with pytest.raises(OptionError, match="does not hold the words"):
        load_words(tmp_path, emoji_flux.LENGTH, emoji_flux.WIDTH)
    shutil.copy(folder / "words.safetensors", tmp_path)
    (tmp_path / "vocabulary.json").write_text('["<pad>", "one"]')
    with pytest.raises(OptionError, match="does not hold the words"):
        load_words(tmp_path, emoji_flux.LENGTH, emoji_flux.WIDTH)


def test_tokens_and_images_are_the_same_pixels() -> None:
    images = torch.randn(2, 3, 32, 32)
    tokens = nn.functional.pixel_unshuffle(images, emoji_flux.PATCH).flatten(2)
    assert torch.equal(emoji_flux.unpack(tokens.transpose(1, 2)), images)


@pytest.mark.parametrize("name", ["euler", "unipc", "dpmpp_2m"])
def test_a_larger_shift_stays_longer_in_the_noise(name: str) -> None:
    made = flow_schedulers(tokens=64)
    middle = [
        float(made[name + shift](20).timesteps[10])
        for shift in ("", "_shift3", "_shift7")
    ]
    assert middle == sorted(middle)
    assert middle[0] == pytest.approx(500, abs=2)
    assert middle[1] == pytest.approx(750, abs=2)


def straight_line(x: Tensor, t: Tensor, inputs: Any) -> Tensor:
    """The velocity of a flow whose data is one point, 0.5."""
    sigma = (t / 1000).view(-1, 1).clamp(min=1e-6)
    return (x - 0.5) / sigma


@pytest.mark.parametrize("name", ["euler", "euler_shift7", "euler_dynamic", "unipc"])
def test_flows_are_solved(name: str) -> None:
    x = denoise(
        straight_line,
        torch.randn(2, 3),
        flow_schedulers(64)[name](10),
        inputs={},
        empty={},
        guidance=Guidance(1.0),
        generators=[],
    )
    torch.testing.assert_close(x, torch.full((2, 3), 0.5), atol=0.02, rtol=0)


def test_guidance_leaves_the_variance_as_the_condition_has_it() -> None:
    def predict(x: Tensor, t: Tensor, inputs: Any) -> Tensor:
        return torch.cat([x * 0 + inputs["label"], inputs["label"] + 10], dim=1)

    seen = []

    class Recorder:
        timesteps = torch.tensor([5])
        init_noise_sigma = 1.0

        def scale_model_input(self, x: Tensor, t: Tensor) -> Tensor:
            return x

        def step(self, prediction: Tensor, t: Tensor, x: Tensor) -> Any:
            seen.append(prediction)
            return type("Output", (), {"prev_sample": x})

    labels = torch.ones(1, 1)
    for separate in (False, True):
        denoise(
            predict,
            torch.zeros(1, 1),
            Recorder(),  # type: ignore[arg-type]
            inputs={"label": labels},
            empty={"label": labels * 3},
            guidance=Guidance(2.0, separate),
            generators=[],
        )
    assert [x.tolist() for x in seen] == [[[-1.0]], [[-1.0]]]


def test_every_model_says_how_it_is_sampled() -> None:
    for trained in MODELS.values():
        assert isinstance(trained, TrainedModel)
        assert set(trained.make().config) >= {"num_layers"}
        assert len(trained.conditions(30)) == 30
