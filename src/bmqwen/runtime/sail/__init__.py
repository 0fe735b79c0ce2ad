"""The vendor's Python runtime, `sophon.sail`, as a second way to a chip. Only calls that its manual documents."""
