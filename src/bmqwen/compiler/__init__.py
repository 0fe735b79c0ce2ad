"""The vendor's compiler, driven: toolchain, plan, schedule, work folder, timing.

A device never loads it. May import emit, hub, artifact and what these do.
"""
