"""`python -m membrain_cloud` is `membrain-cloud`."""

from membrain_cloud.cli import main

if __name__ == "__main__":
    main(prog_name="membrain-cloud")
