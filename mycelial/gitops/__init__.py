"""Where desired state comes from, and how it is changed: commits.

Lives here: the folder, embedded and remote sources, the one door to GitPython, apply-as-commit.
Does not live here: what a manifest means (schemas) and what to do about it (reconciler).
Data flow: repository -> Tree(revision, path -> blob id) -> bytes; edits -> commit -> revision.

base.py      the contract of a source              git.py       the door: one git command, bounded
grammar.py   what a URL, ref and path may look like bare.py      a bare repository over the door
listing.py   a tree's listing -> Tree, purely      apply.py     edits as a commit, and its revert
embedded.py, remote.py, folder.py                  the three sources
"""
