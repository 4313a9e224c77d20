"""`make chaos`: whether anything acknowledged is ever lost, whatever happens to the parts."""
