"""`python -m orchestrator`"""

from infra.chassis.process import main

main("orchestrator")
