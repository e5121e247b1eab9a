"""`python -m tests.support.ledger`"""

from infra.chassis.process import main

main("tests.support.ledger")
