"""What this machine says of its chips: driver, devices, memory; no library of the vendor's is loaded for it."""
