#include "assignment/kernels.h"

#include "assignment/direct_kernels.h"

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
constexpr DirectKernels COMPILED_DIRECT{
    direct_lowest_float, direct_lowest_double, direct_bid_float,   direct_bid_double,
    direct_free_float,   direct_free_double,   direct_tight_float, direct_tight_double,
    direct_reach_float,  direct_reach_double};
}  // namespace
const Kernels Kernels::FASTGEN_ISA = COMPILED;
const DirectKernels DirectKernels::FASTGEN_ISA = COMPILED_DIRECT;
}  // namespace fastgen::assignment
