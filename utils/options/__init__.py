"""What the scripts are told: their options, readable before torch is loaded."""
