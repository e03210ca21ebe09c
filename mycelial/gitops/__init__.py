"""Where desired state comes from, and how it is changed: commits.

Lives here: the folder, embedded and remote sources, the one door to GitPython, apply-as-commit.
Does not live here: what a manifest means (schemas) and what to do about it (reconciler).
Data flow: repository -> Tree(revision, path -> blob id) -> bytes; edits -> commit -> revision.
"""
