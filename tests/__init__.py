"""The tests. What several of them build or read stands once, in the modules of this folder."""
