"""`python -m benchmarks.stages`: the graph of a small model after every pass.

Writes docs/stages/, shown by docs/stages.md: for every stage a drawing (.svg) and the
graph in words (.txt). In the drawings views, copies and parameters are left out.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from rfc_compile import graph_report, torch_internals
from rfc_compile.compiler.plan import capture, complete_plan
from rfc_compile.config.options import Options
from rfc_compile.passes.fx_utils import is_copy, is_layout

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "stages"
OPTIONS: Final = Options(granularity="block", schedule="rcs")
"""Two regions, and a step that looks at its input: every pass has something to do."""

WIDTH: Final = 16
COLUMN, ROW, BOX_WIDTH, BOX_HEIGHT = 208, 42, 192, 26
"""Of a drawing, in pixels."""

COLOURS: Final = {
    "input": "#cfe3f7",
    "state": "#fbe3b5",
    "region": "#cdebc9",
    "predicted": "#f6c9c9",
    "other": "#eeeeee",
}
PARAMETERS: Final = (".weight", ".bias", "frequencies")
SHORT: Final = {
    "addmm": "linear",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
}


class Block(nn.Module):
    """Attention on a modulated input, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(WIDTH, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """Tokens (B, L, D) and the embedding of the timestep (B, D) to tokens."""
        qkv = self.qkv(h * self.scale(time)[:, None]).unflatten(-1, (3, 2, -1))
        heads = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind())
        h = h + self.out(heads.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(h)))


class SmallDiT(nn.Module):
    """Two blocks between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.time = nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 4)
        self.register_buffer("frequencies", torch.exp(-torch.arange(4.0)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noisy tokens (B, L, 4) at timesteps (B,) to what the sampler wants."""
        angle = t[:, None] * self.frequencies
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, time)
        return self.head(h)


@dataclass(frozen=True)
class Box:
    """A node of a drawing: its words, its colour, and the boxes it reads."""

    label: str
    colour: str
    reads: tuple[str, ...]


@dataclass
class Recorder:
    """Takes down the graph after every pass, in words and as boxes."""

    names: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, dict[str, Box]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    in_regions: set[str] = field(default_factory=set)

    def __call__(self, stage: str, gm: fx.GraphModule) -> None:
        """The pass of this name is done; one that changed nothing is left out."""
        if stage == "dynamo":  # functionalize calls its inputs arg0_1, arg1_1, ...
            for place, node in enumerate(gm.graph.find_nodes(op="placeholder")):
                name = _parameter(str(node.target))
                self.names |= {node.name: name, f"arg{place}_1": name}
        lines = self._lines(gm.graph)
        for name, module in gm.named_children():
            if isinstance(module, fx.GraphModule) and name not in self.shown:
                self.shown.add(name)
                if stage == "outline":
                    inside = module.graph.nodes
                    self.in_regions |= {x.name for x in inside if x.op != "placeholder"}
                inner = [f"    {line}" for line in self._lines(module.graph, of=name)]
                lines += ["", f"{name}:", *inner]
        text = "\n".join(lines) + "\n"
        if text in self.texts.values():
            return
        self.texts[stage] = text
        if stage != "dynamo":  # whose views are not known
            self.boxes[stage] = self._boxes(gm.graph)

    def drawings(self) -> dict[str, str]:
        """Every stage as SVG; what becomes a region is shown in the graph it is in."""
        boxes = self.boxes["functionalize"]
        for name in self.in_regions & boxes.keys():
            if boxes[name].colour == COLOURS["other"]:
                boxes[name] = replace(boxes[name], colour=COLOURS["region"])
        return {stage: drawing(boxes) for stage, boxes in self.boxes.items()}

    def _lines(self, graph: fx.Graph, of: str = "") -> list[str]:
        names = {} if of else self._inputs(graph)
        lines = []
        for node in graph.nodes:
            words = fx.node.map_arg(node.args, lambda arg: _Name(names.get(arg, arg)))
            given = ", ".join(map(str, words))
            if node.op == "output":
                lines.append(f"return {given}")
            elif node.op == "placeholder" and of:
                lines.append(f"{node.name}: {_shape(node)}")
            elif node.op not in ("placeholder", "get_attr"):
                lines.append(f"{node.name}: {_shape(node)} = {_op(node)}({given})")
        return lines

    def _inputs(self, graph: fx.Graph) -> dict[fx.Node, str]:
        """Names of the graph's inputs as a reader of the model knows them."""
        given = graph.find_nodes(op="placeholder")
        return {node: self.names.get(node.name, node.name) for node in given}

    def _boxes(self, graph: fx.Graph) -> dict[str, Box]:
        names = self._inputs(graph)
        boxes: dict[str, Box] = {}
        behind: dict[fx.Node, tuple[str, ...]] = {}
        for node in graph.nodes:
            reads = tuple(
                dict.fromkeys(r for x in node.all_input_nodes for r in behind[x])
            )
            behind[node] = reads if _is_plain(node) else (node.name,)
            if node.op == "get_attr" or names.get(node, "").endswith(PARAMETERS):
                behind[node] = ()
            elif node.op == "output":
                boxes["result"] = Box("result", COLOURS["input"], reads)
            elif behind[node] == (node.name,):
                label, colour = _look(node, names)
                boxes[node.name] = Box(label, COLOURS[colour], reads)
        read = {name for box in boxes.values() for name in box.reads}
        return {k: v for k, v in boxes.items() if v.reads or k in read}


class _Name(str):
    __slots__ = ()

    __repr__ = str.__str__


def _parameter(name: str) -> str:
    """`L_self_modules_head_parameters_bias_` as `head.bias`."""
    words = re.sub(r"_?(modules|parameters|buffers)_", ".", name.strip("_"))
    return words.removeprefix("L_self").removeprefix("L_").strip("._")


def _op(node: fx.Node) -> str:
    name = str(getattr(node.target, "__name__", node.target))
    return name.rsplit("rewrites_conditional_")[-1].removesuffix(".default")


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val", node.meta.get("example_value"))
    return str(list(value.shape)) if isinstance(value, Tensor) else "-"


def _is_plain(node: fx.Node) -> bool:
    """Whether a node computes nothing: a view, a copy, an element of a tuple."""
    return node.op == "call_function" and (
        is_layout(node) or is_copy(node) or _op(node) == "getitem"
    )


def _look(node: fx.Node, names: dict[fx.Node, str]) -> tuple[str, str]:
    """The words and the colour of a node."""
    if node.op == "placeholder":
        if names[node] in ("x", "t"):
            return f"{names[node]}  {_shape(node)}", "input"
        kept = re.match(r"region_|input_|latent_|weights$|limit$", node.name)
        return node.name, "state" if kept else "other"
    modules = [str(x.target) for x in node.all_input_nodes if x.op == "get_attr"]
    if _op(node) == "conditional":
        return f"{modules[0].removesuffix('_1')} or {modules[-1]}", "predicted"
    if node.op == "call_module":
        name = str(node.target)
        return name, "region" if name.startswith("region") else "predicted"
    op = _op(node).partition(".")[0]
    shape = _shape(node)
    kind = "state" if op == "copy_" else "other"
    return f"{SHORT.get(op, op)}  {'' if shape == '-' else shape}".strip(), kind


def drawing(boxes: dict[str, Box]) -> str:
    """The boxes in rows, each below all that it reads, as SVG."""
    row = _rows(boxes)
    x = _columns(boxes, row)
    left = min(x.values())
    width = max(x.values()) - left + COLUMN
    height = (max(row.values()) + 1) * ROW
    at = {n: (x[n] - left + COLUMN / 2, row[n] * ROW + ROW / 2) for n in boxes}
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" '
        f'width="{width:g}" font-family="sans-serif" font-size="12">'
    )
    lines = [_line(at[r], at[n]) for n, box in boxes.items() for r in box.reads]
    shapes = [_box(at[n], box) for n, box in boxes.items()]
    return "\n".join([head, *lines, *shapes, "</svg>"]) + "\n"


def _rows(boxes: dict[str, Box]) -> dict[str, int]:
    """The row of every box; inputs stand just above what reads them."""
    row: dict[str, int] = {}
    for name, box in boxes.items():
        row[name] = 1 + max((row[x] for x in box.reads), default=-1)
    for name, box in boxes.items():
        readers = [row[k] for k, other in boxes.items() if name in other.reads]
        if readers and not box.reads:
            row[name] = min(readers) - 1
    return row


def _columns(boxes: dict[str, Box], row: dict[str, int]) -> dict[str, float]:
    """The middle of every box, in pixels: below what it reads, where there is room."""
    x: dict[str, float] = {}
    for place in sorted(set(row.values())):
        names = [name for name in boxes if row[name] == place]
        wanted = {n: _mean([x[r] for r in boxes[n].reads if r in x]) for n in names}
        taken = -math.inf
        for name in sorted(names, key=lambda n: wanted[n]):
            taken = max(wanted[name], taken + COLUMN)
            x[name] = taken
    return x


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (u, v) = start, end
    bend = (v - y) / 2
    path = f"M{x:g},{y:g} C{x:g},{y + bend:g} {u:g},{v - bend:g} {u:g},{v:g}"
    return f'<path d="{path}" fill="none" stroke="#888"/>'


def _box(centre: tuple[float, float], box: Box) -> str:
    x, y = centre
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="4" fill="{box.colour}" stroke="#555"/><text x="{x:g}" y="{y + 4:g}" '
        f'text-anchor="middle">{escape(box.label)}</text>'
    )


def record(options: Options = OPTIONS) -> Recorder:
    """The stages of the small model, planned and not compiled."""
    recorder = Recorder()

    def planner(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        report = graph_report.new_report(inputs)
        fakes = torch_internals.fake_inputs(gm, inputs)
        captured = capture(gm, fakes, options, report, recorder)
        complete_plan(captured, options, report, recorder)
        return gm.forward

    torch.compiler.reset()
    with torch.no_grad():
        model: Any = torch.compile(SmallDiT().eval(), backend=planner)
        model(torch.randn(2, 6, 4), torch.tensor([5.0, 5.0]))
    return recorder


def main() -> None:
    """Replace the files of docs/stages."""
    recorder = record()
    FOLDER.mkdir(exist_ok=True)
    for stage, text in recorder.texts.items():
        (FOLDER / f"{stage}.txt").write_text(text)
    for stage, picture in recorder.drawings().items():
        (FOLDER / f"{stage}.svg").write_text(picture)


if __name__ == "__main__":
    main()
