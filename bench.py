"""The command line of shala-bench: `python bench.py --help`."""

from shalabench.api.stopping import exit_when_terminated

with exit_when_terminated():
    from shalabench.cli import main

if __name__ == "__main__":
    main()
