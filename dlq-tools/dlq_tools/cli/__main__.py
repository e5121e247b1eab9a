"""`python -m dlq_tools.cli`"""

from dlq_tools.cli import main

main()
