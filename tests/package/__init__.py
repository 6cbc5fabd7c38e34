"""Writing and reading packages."""
