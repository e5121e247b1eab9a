"""One transaction of the loop. Read batch.py first."""

from infra.chassis.batch.batch import BatchTransaction
from infra.chassis.batch.work import BatchResult

__all__ = ["BatchResult", "BatchTransaction"]
