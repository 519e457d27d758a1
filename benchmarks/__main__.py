"""`python -m benchmarks [name] [--quick] [--images N]`; all of them without a name."""

import argparse
import functools

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


def main() -> None:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("which", nargs="?", default="all")
    add("--quick", action="store_true", help="a small part, minutes")
    add("--images", type=int, help="per cell of matrix")
    add(
        "--only",
        default="",
        help="part of the names: accelerator, compile_time, matrix",
    )
    add("--again", default="", help="part of methods of matrix to measure again")
    add(
        "--minutes", type=float, help="when accelerator, matrix, promise stop, to go on"
    )
    add("--device", default="", help="of accelerator; the one there is if not given")
    add("--tiny", action="store_true", help="accelerator: small models, to try it out")
    args = parser.parse_args()
    benchmarks = {
        "accelerator": functools.partial(
            accelerator.run,
            only=args.only,
            minutes=args.minutes,
            device=args.device,
            tiny=args.tiny,
        ),
        "matrix": functools.partial(
            matrix.run,
            images=args.images,
            only=args.only,
            again=args.again,
            minutes=args.minutes,
        ),
        "left_out": left_out.run,
        "defaults": defaults.run,
        "promise": functools.partial(promise.run, minutes=args.minutes),
        "placement": placement.run,
        "residuals": residuals.run,
        "memory": memory.run,
        "speed": speed.run,
        "speed_xl": speed.run_xl,
        "host": host.run,
        "tuned_steps": tuned_steps.run,
        "compile_time": functools.partial(compile_time.run, only=args.only),
    }
    if args.which not in (*benchmarks, "all"):
        parser.error(f"{args.which!r}: give one of {', '.join(benchmarks)}, all")
    for name, run in benchmarks.items():
        if args.which in (name, "all"):
            run(quick=args.quick)


if __name__ == "__main__":
    main()
