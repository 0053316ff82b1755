"""What the site takes from the rest of the repository (mkdocs hooks)."""
