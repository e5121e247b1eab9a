"""`python -m services.fulfillment`"""

from infra.chassis.process import main

main("services.fulfillment")
