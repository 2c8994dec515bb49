"""Other people's interfaces to what is in this package."""
