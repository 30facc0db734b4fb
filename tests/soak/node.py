"""``python -m tests.soak.node run --config …``: the node, whose radiographs are analysed by the tests' toy pipeline."""

from node import child, cli

if __name__ == "__main__":
    child.ROLE_PROGRAM = "tests.soak.role"
    cli.main()
