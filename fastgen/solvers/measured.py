"""What "auto" chooses from. Written by `python -m benchmarks.tools.decisions`."""

# fmt: off
# Budget: (solver, grid, times the least error there), by the distance to the end.
Measured = dict[int, tuple[str, str, float]]
# Rectified: three exact velocities and a network, alone and guided.
VELOCITIES: Measured = {
    4: ('adams_bashforth', 'uniform', 1.08),
    5: ('adams_bashforth', 'uniform', 1.08),
    6: ('adams_bashforth', 'uniform', 1.06),
    8: ('adams_bashforth', 'uniform', 1.06),
    10: ('adams_bashforth', 'uniform', 1.07),
    15: ('deis', 'uniform', 1.14),
    20: ('adams_bashforth', 'uniform', 1.11),
    50: ('dpm_solver_3m', 'uniform', 1.00),
}
# CosineVP: a network that predicts noise, alone and guided.
NOISES: Measured = {
    4: ('dpm_solver_singlestep', 'karras', 1.00),
    5: ('ipndm_v', 'karras', 1.09),
    6: ('ipndm_v', 'karras', 1.00),
    8: ('dpm_solver_2m', 'karras', 1.00),
    10: ('dpm_solver_2m', 'karras', 1.00),
    15: ('dpm_solver_3m', 'karras', 1.00),
    20: ('dpm_solver_3m', 'karras', 1.00),
    50: ('dpm_solver_2m', 'karras', 1.00),
}
# LinearVP: three exact denoisers; CosineVP: a network that predicts v, alone and guided.
VARIANCE_PRESERVING: Measured = {
    4: ('deis', 'uniform', 1.19),
    5: ('deis', 'uniform', 1.17),
    6: ('deis', 'uniform', 1.25),
    8: ('deis', 'uniform', 1.45),
    10: ('dpm_solver_3m', 'karras', 1.43),
    15: ('dpm_solver_3m', 'karras', 1.34),
    20: ('dpm_solver_3m', 'karras', 1.23),
    50: ('ipndm', 'uniform', 1.00),
}
# LinearVP: three exact denoisers, on grids that are even in noise.
OTHERS: Measured = {
    4: ('adams_bashforth', 'karras', 1.28),
    5: ('adams_bashforth', 'log_snr', 1.20),
    6: ('gradient_estimation', 'log_snr', 1.17),
    8: ('dpm_solver_3m', 'karras', 1.08),
    10: ('dpm_solver_3m', 'karras', 1.11),
    15: ('dpmpp_3m', 'log_snr', 1.15),
    20: ('dpm_solver_3m', 'karras', 1.03),
    50: ('ipndm', 'log_snr', 1.00),
}
