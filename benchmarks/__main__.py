"""`python -m benchmarks [name] [--quick] [--images N]`; all of them without a name."""

import argparse

from benchmarks import (
    accelerator,
    compile_time,
    defaults,
    host,
    left_out,
    matrix,
    memory,
    placement,
    promise,
    residuals,
    speed,
    tuned_steps,
)

BENCHMARKS = {
    "accelerator": accelerator.run,
    "matrix": matrix.run,
    "left_out": left_out.run,
    "defaults": defaults.run,
    "promise": promise.run,
    "placement": placement.run,
    "residuals": residuals.run,
    "memory": memory.run,
    "speed": speed.run,
    "speed_xl": speed.run_xl,
    "host": host.run,
    "tuned_steps": tuned_steps.run,
    "compile_time": compile_time.run,
}
"""Functions of the arguments below."""


def main() -> None:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("which", nargs="?", default="all", choices=[*BENCHMARKS, "all"])
    add("--quick", action="store_true", help="a small part, minutes")
    add("--images", type=int, help="per cell of matrix")
    only = "part of the names: accelerator, compile_time, matrix"
    add("--only", default="", help=only)
    add("--again", default="", help="part of methods of matrix to measure again")
    add(
        "--minutes", type=float, help="when accelerator, matrix, promise stop, to go on"
    )
    add("--device", default="", help="of accelerator; the one there is if not given")
    add("--tiny", action="store_true", help="accelerator: small models, to try it out")
    args = parser.parse_args()
    for name, run in BENCHMARKS.items():
        if args.which in (name, "all"):
            run(args)


if __name__ == "__main__":
    main()
