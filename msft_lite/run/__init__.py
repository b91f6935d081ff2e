"""Runs a recipe: builds the parts, drives the method, executes its roll-outs."""
