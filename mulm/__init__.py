"""µLM: build, train, serve and keep teaching a micro language model of your own.

This package holds all that is true without a cluster. It imports neither Ray nor a
web framework, so its training loop and its engine also run on a bare machine.
"""

__version__ = "0.1.0"
