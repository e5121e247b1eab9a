"""`python -m dlq_tools`"""

from infra.chassis.process import main

main("dlq_tools")
