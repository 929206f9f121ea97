"""How unit tests are run."""

from hypothesis import settings

# All of them together shall take seconds; what is found once becomes a test of its own.
settings.register_profile("unit", max_examples=40, deadline=None)
settings.load_profile("unit")
