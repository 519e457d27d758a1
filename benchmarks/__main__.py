"""`python -m benchmarks [quality|speed|host|all] [--quick] [--images N]`."""

import argparse
import functools

from benchmarks import host, quality, speed


def main() -> None:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="?", default="all")
    parser.add_argument("--quick", action="store_true", help="a small part, minutes")
    parser.add_argument("--images", type=int, help="per cell of the quality benchmark")
    args = parser.parse_args()
    benchmarks = {
        "quality": functools.partial(quality.run, images=args.images),
        "speed": speed.run,
        "host": host.run,
    }
    if args.which not in (*benchmarks, "all"):
        parser.error(f"{args.which!r}: give one of {', '.join(benchmarks)}, all")
    for name, run in benchmarks.items():
        if args.which in (name, "all"):
            run(quick=args.quick)


if __name__ == "__main__":
    main()
