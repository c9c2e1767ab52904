"""Options of the scripts, readable before torch is loaded."""
