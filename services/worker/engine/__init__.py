"""The engine: a child process that holds the models, and the front's way to it.

The front imports ``protocol``, ``messages``, ``catalog`` and ``supervisor`` only, none of which imports a model
library; everything else here runs in the child.
"""
