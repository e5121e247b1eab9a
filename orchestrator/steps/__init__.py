"""The kinds of steps, a module each, named after the word that a definition writes it with. Read `step.py`, then `command.py`.

Nothing outside this folder asks of which kind a step is: the engine asks the step, and the checks ask the kind.
"""
