"""`python -m processors …`: the operator's commands and the long-running processes."""

from processors.runtime.cli import main

main()
