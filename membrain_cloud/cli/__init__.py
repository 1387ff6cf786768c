"""The command line: commands that parse options, call the packages below, and print.

It may import every package; anything heavy is imported inside the functions that need it, so that `--help` is quick.
"""

from membrain_cloud.cli.program import main

__all__ = ["main"]
