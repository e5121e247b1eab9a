"""`python -m tests.support.ledger`"""

from infra.chassis import retries
from infra.chassis.process import main

# A killed process leaves its claims behind; a test does not wait ten seconds for them.
retries.LEASE_SECONDS = 1
main("tests.support.ledger")
