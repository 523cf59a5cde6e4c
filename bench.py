"""The command line of shala-bench: `python bench.py --help`."""

from shalabench.cli import main

if __name__ == "__main__":
    main()
