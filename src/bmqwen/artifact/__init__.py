"""What a runtime loads: bundles, bmodels, the step nets and their planner, and what these need on a chip.

Read from the files alone, without the vendor's libraries. May import quant, weights, model, chip and util.
"""
