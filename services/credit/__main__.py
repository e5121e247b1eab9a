"""`python -m services.credit`"""

from infra.chassis.process import main

main("services.credit")
