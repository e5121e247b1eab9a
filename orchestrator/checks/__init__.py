"""What is checked when a definition is loaded, and the compiling that the checks do on the way.

Every check reports and goes on, so that one reading finds everything. A `Workflow` comes out only when nothing was found.
"""

from orchestrator.checks.checks import Checker

__all__ = ["Checker"]
