"""`python -m services.inventory`"""

from infra.chassis.process import main

main("services.inventory")
