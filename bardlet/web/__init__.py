"""The pages' static files, and how they become one page."""
