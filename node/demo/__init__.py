"""``spine-node demo``: the main job, end to end, on this machine, with nothing to install or to click.

A phantom with known fractures, its CT and its radiograph, go by C-STORE to a node with its own PostgreSQL; what comes
back to a small PACS is shown beside the truth, and validated.
"""

from node.demo.show import run_demo

__all__ = ["run_demo"]
