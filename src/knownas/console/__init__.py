"""The console: pages at `/console/` on which operators look profiles up and mend them."""
