"""`scipy.optimize.linear_sum_assignment` by `fastgen.couplings.assign`.

from fastgen.integrations.scipy import linear_sum_assignment
# instead of: from scipy.optimize import linear_sum_assignment
"""

from fastgen.integrations.scipy.assignment import linear_sum_assignment

__all__ = ["linear_sum_assignment"]
