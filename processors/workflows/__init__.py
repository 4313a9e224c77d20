"""What is done with events and runs; each module is one workflow."""
