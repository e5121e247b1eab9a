"""`python -m services.ingress`"""

from infra.chassis.process import main

main("services.ingress")
