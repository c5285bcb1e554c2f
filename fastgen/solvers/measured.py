"""What "auto" chooses from. Written by `python -m benchmarks.tools.decisions`."""

# fmt: off
# Budget: (solver, grid or None for the schedule's own, times the least error there).
Measured = dict[int, tuple[str, str | None, float]]
# Distances to the exact end on LinearVP, the mean over three problems.
VARIANCE_PRESERVING: Measured = {
    4: ('gradient_estimation', 'uniform', 1.33),
    5: ('dpmpp_3m', 'uniform', 1.29),
    6: ('res_3m', 'uniform', 1.28),
    8: ('dpmpp_3m', 'uniform', 1.48),
    10: ('dpm_solver_3m', 'karras', 1.53),
    15: ('dpmpp_3m', 'log_snr', 1.53),
    20: ('dpm_solver_3m', 'karras', 1.60),
    50: ('ipndm_v', 'uniform', 6.14),
}
# Distances to the exact end on LinearVP, the mean over three problems; on grids even in noise.
OTHERS: Measured = {
    4: ('adams_bashforth', 'karras', 1.44),
    5: ('adams_bashforth', 'log_snr', 1.60),
    6: ('gradient_estimation', 'log_snr', 1.75),
    8: ('dpm_solver_3m', 'karras', 1.59),
    10: ('dpm_solver_3m', 'karras', 1.53),
    15: ('dpmpp_3m', 'log_snr', 1.53),
    20: ('dpm_solver_3m', 'karras', 1.60),
    50: ('dpm_solver_3m', 'log_snr', 9.24),
}
# Frechet distances of networks of the digits that predict velocity (Rectified) and v (CosineVP).
VELOCITIES: Measured = {
    4: ('gradient_estimation', None, 1.00),
    5: ('gradient_estimation', None, 1.00),
    6: ('gradient_estimation', None, 1.00),
    8: ('gradient_estimation', None, 1.00),
    10: ('gradient_estimation', None, 1.00),
    15: ('gradient_estimation', None, 1.00),
    20: ('gradient_estimation', None, 1.00),
    50: ('gradient_estimation', None, 1.00),
}
