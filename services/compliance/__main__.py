"""`python -m services.compliance`"""

from infra.chassis.process import main

main("services.compliance")
