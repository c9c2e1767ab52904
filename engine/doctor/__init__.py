"""What is wrong or unusual with a dataset: checks that find, sort and show it, and change nothing."""
