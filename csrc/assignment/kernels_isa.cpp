#include "assignment/kernels.h"

namespace fastgen::assignment {
namespace {
constexpr Kernels COMPILED{points_row,
                           points_row_double,
                           box_bounds,
                           visit_box,
                           lowest_bound,
                           range_float,
                           range_double,
                           levels_direct,
                           levels_float,
                           levels_double,
                           lower,
                           best_two,
                           best_listed,
                           nearer_listed,
                           reduce,
                           collect,
                           relax,
                           lowest_float,
                           lowest_double,
                           squared_distance_float,
                           squared_distance_double,
                           add_moments_float,
                           add_moments_double};
}
const Kernels Kernels::FASTGEN_ISA = COMPILED;
}  // namespace fastgen::assignment
