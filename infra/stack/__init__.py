"""The roof: the private stack, the `tutti` command, jobs of a deployment, the demo, a carrier to practise with.

It may import every service; nothing below it imports it.
"""
