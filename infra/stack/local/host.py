"""`python -m infra.stack.local.host credit inventory ...`: several services in one process, each with its own users and connections."""

import sys

from infra.chassis.process import main
from infra.stack.local.layout import PACKAGES

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in PACKAGES]
    if unknown or not sys.argv[1:]:
        raise SystemExit(f"usage: python -m infra.stack.local.host NAME...; unknown: {unknown}; known: {', '.join(PACKAGES)}")
    main(*(PACKAGES[name] for name in sys.argv[1:]))
