"""Limits of one call of `combine`, for the kernels and for the plans that are lowered to it."""

# Multistep methods of order 8 and tableaus of 13 stages fit.
MAX_INPUTS, MAX_OUTPUTS, MAX_NOISES = 24, 8, 8
