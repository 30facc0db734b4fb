"""One process of the node under soak: ``node.role`` with the tests' toy pipeline for radiographs."""

import sys

from node import role

if __name__ == "__main__":
    if sys.argv[1] == "evaluate":
        from node import evaluating
        from tests.toy_film_pipeline import toy_film_pipeline

        evaluating.film_pipeline = lambda _settings: toy_film_pipeline()
    role.main(sys.argv[1], sys.stdin)
