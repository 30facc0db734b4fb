"""``python -m tests.soak.node run --config …``: the node, whose radiographs are analysed by the tests' toy pipeline."""

from node import cli, service

if __name__ == "__main__":
    service.ROLE_PROGRAM = "tests.soak.role"
    cli.main()
