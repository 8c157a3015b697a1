"""Imported before torch, this process computes as those that `genforge` starts: its threads wait in the same way, which
they are told when torch is loaded. Peers import nothing of it: they run as torch itself has it."""

from __future__ import annotations

from genforge.cli import set_environment

set_environment()
