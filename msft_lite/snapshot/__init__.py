"""Snapshots, the crash copy and the exported model: what a run keeps on disk beside its ledger."""
