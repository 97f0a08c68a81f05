"""Modules and packages: the manifest, the builder and the templates."""
