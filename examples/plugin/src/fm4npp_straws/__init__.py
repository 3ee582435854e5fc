"""A made-up tracker of straw tubes for FM4NPP; each class is found by its entry point."""
