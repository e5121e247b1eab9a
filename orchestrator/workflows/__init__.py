"""Definitions, one folder a workflow and one file a version; docs/workflow-language.md says what the words mean."""
