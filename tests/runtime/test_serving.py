"""`examples/serving.py` under load, on loopback."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from torch import nn

import rfc_compile
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serving.py"
QUALITIES: tuple[dict[str, Any], ...] = (
    {},
    {"preset": "quality"},
    {"preset": "fast"},
    {"tolerance": 0.01},
    {"target_nfc": 4},
    {"target_speedup": 2},
    {"off": True},
)
GONE_AFTER = 3
"""Steps after which a client hangs up; its request has far more."""


@pytest.fixture(scope="module")
def serving() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("serving_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def running(serving: ModuleType, model: Any, most: int = 6) -> Iterator[int]:
    """A server on a free port of loopback."""
    app = serving.create_app(serving.Engine(model, most))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes, Any]:
    """Status, body and headers of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def statistics(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "GET", "/statistics")[1])
    return found


def streamed(port: int, order: dict[str, Any], lines: int | None = None) -> list[Any]:
    """The lines of an image's progress; hangs up after so many."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/images/stream", json.dumps(order), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    found = [json.loads(line) for line in itertools.islice(answer, lines)]
    if lines is not None:
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    return found


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def served(port: int, number: int, order: dict[str, Any]) -> tuple[bytes, int] | None:
    """The PNG of a request and its full steps; None for a client that hangs up."""
    if number % 6 == 5:
        streamed(port, {**order, "steps": 150}, GONE_AFTER)
        return None
    if number % 2:
        *steps, last = streamed(port, order)
        count = order["steps"]
        assert steps == [{"step": i + 1, "steps": count} for i in range(count)]
        return base64.b64decode(last["png"]), last["full_steps"]
    status, image, headers = ask(port, "POST", "/images", order)
    assert status == 200, image
    return image, int(headers["X-Full-Steps"])


def orders(count: int) -> list[dict[str, Any]]:
    """Requests of all lengths and qualities; some are for the same image."""
    draw = random.Random(count)
    return [
        {
            "prompt": draw.choice(EMOJI_FLUX.examples[:8]),
            "seed": draw.randrange(4),
            "steps": draw.randint(4, 11),
            "guidance": draw.choice((1.5, 3.0)),
            **QUALITIES[i % len(QUALITIES)],
        }
        for i in range(count)
    ]


def small_flux() -> nn.Module:
    model = EMOJI_FLUX.load()
    for name in EMOJI_FLUX.blocks:
        setattr(model, name, getattr(model, name)[:1])
    return model


def drawn_uncached(plain: nn.Module, sampler: str, order: dict[str, Any]) -> bytes:
    """A PNG by the model itself, without the server's loop."""
    given = {name: order[name] for name in ("seed", "steps", "guidance")}
    images = EMOJI_FLUX.sample(plain, [order["prompt"]], scheduler=sampler, **given)
    file = io.BytesIO()
    levels = (images[0] * 127.5 + 127.5).round().to(torch.uint8)
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def assert_same(image: bytes, other: bytes) -> None:
    """Equal but for rounding, which few pixels show at the edge of a level."""
    off = np.abs(pixels(image) - pixels(other))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.005


@pytest.mark.parametrize("count", [24, 200])
def test_every_request_gets_the_image_that_it_gets_alone(
    serving: ModuleType, count: int
) -> None:
    model, asked = serving.compile_model("eager", blocks=1), orders(count)
    with running(serving, model) as port, ThreadPoolExecutor(12) as clients:
        found = list(clients.map(served, [port] * count, range(count), asked))
        while (now := statistics(port))["running"] + now["waiting"]:
            time.sleep(0.05)
    gone = found.count(None)
    assert (now["drawn"], now["dropped"]) == (count - gone, gone)
    assert 0 < now["full_steps"] < now["steps"]
    assert now["rows"] / now["calls"] > 6  # two a request
    rfc_compile.reset(model)
    plain = small_flux()
    for order, answer in zip(asked, found, strict=True):
        if answer is None:
            continue
        engine = serving.Engine(model, most=1)
        (twin,) = serving.draw_all(engine, [serving.Order(**order)])
        image, full_steps = answer
        assert full_steps == twin.full_steps, order
        assert_same(image, twin.png())
        if "off" in order:  # which is the model itself
            assert_same(image, drawn_uncached(plain, serving.SAMPLER, order))
            assert full_steps == order["steps"]
    assert not rfc_compile.explain(model).uncached_reasons


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 64}, "Input should be 32"),
        ({"prompt": "zzzz"}, "zzzz"),
        ({"prompt": "fire " * 60}, "at most 200"),
        ({"prompt": 3}, "valid string"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"steps": "many"}, "valid integer"),
        ({"preset": "best"}, "balanced"),
        ({"target_nfc": 0}, "target_nfc=0"),
        ({"target_nfc": 4, "off": True}, "exclude each other"),
        ({"qality": "fast"}, "Extra inputs"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    serving: ModuleType, wrong: dict[str, Any], message: str
) -> None:
    with running(serving, small_flux()) as port:
        body = {"prompt": "fire", **wrong}
        status, answer, _ = ask(port, "POST", "/images", body)
        assert status == 422
        assert message in answer.decode()
        assert ask(port, "GET", "/health")[0] == 200
        assert statistics(port)["requests"] == 0


def test_a_step_that_fails_is_told_and_the_server_goes_on(serving: ModuleType) -> None:
    model = small_flux()
    order = {"prompt": "fire", "steps": 3}
    with running(serving, model) as port:
        handle = model.register_forward_pre_hook(lambda *_: 1 / 0)
        status, answer, _ = ask(port, "POST", "/images", order)
        assert (status, "division by zero" in answer.decode()) == (500, True)
        assert streamed(port, order) == [{"error": "a step failed: division by zero"}]
        handle.remove()
        assert ask(port, "POST", "/images", order)[0] == 200
        assert statistics(port).items() >= {"drawn": 1, "dropped": 2}.items()
