"""The runtimes of exported files, one class each; `models.runtimes.backends` picks one."""
