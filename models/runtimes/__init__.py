"""The run times of exported files, one class each; `models.backends` picks one."""
