"""`python -m benchmarks [quality|speed|all] [--quick] [--images N]`."""

import argparse

from benchmarks import quality, speed


def main() -> None:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "which", nargs="?", choices=("quality", "speed", "all"), default="all"
    )
    parser.add_argument("--quick", action="store_true", help="a small part, minutes")
    parser.add_argument("--images", type=int, help="per cell of the quality benchmark")
    args = parser.parse_args()
    if args.which in ("quality", "all"):
        quality.run(quick=args.quick, images=args.images)
    if args.which in ("speed", "all"):
        speed.run(quick=args.quick)


if __name__ == "__main__":
    main()
