"""The report: one HTML page about the studies in a store."""
