"""How the scripts do their work; imports models and utils, and only scripts, hubconf and tests import it."""
