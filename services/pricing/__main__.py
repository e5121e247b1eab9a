"""`python -m services.pricing`"""

from infra.chassis.process import main

main("services.pricing")
