// The assignment kernels for the CPU, behind as much of the driver's interface as fastgen calls.
#include "cuda_on_host.h"

#include "assignment.cu"

namespace {

int launch(void* function, unsigned first, unsigned blocks, unsigned threads, unsigned shared,
           void** parameters) {
  const auto kernel = reinterpret_cast<void (*)(fastgen::Problem)>(function);
  const auto problem = static_cast<const fastgen::Problem*>(parameters[0]);
  cuda_on_host::body = [=] { kernel(*problem); };
  const bool ended = cuda_on_host::run(first, blocks, threads, shared);
  cuda_on_host::ready.clear();
  cuda_on_host::idle.clear();
  return ended ? 0 : 719;  // CUDA_ERROR_LAUNCH_FAILED
}

}  // namespace

extern "C" {

void fastgen_test_seed(uint64_t seed) { cuda_on_host::chance = seed; }
uint64_t fastgen_test_problem_size() { return sizeof(fastgen::Problem); }
uint64_t fastgen_test_shared_size() { return sizeof(fastgen::Shared); }
uint64_t fastgen_test_token_size() { return sizeof(fastgen::Token); }

int cuGetErrorName(int, const char** name) {
  *name = "CUDA_ERROR_LAUNCH_FAILED";
  return 0;
}
int cuModuleLoadData(void** module, const void*) {
  *module = nullptr;
  return 0;
}
int cuModuleGetFunction(void** function, void*, const char* name) {
  if (!std::strcmp(name, "fastgen_assign_levels"))
    *function = reinterpret_cast<void*>(fastgen_assign_levels);
  else if (!std::strcmp(name, "fastgen_assign_points"))
    *function = reinterpret_cast<void*>(fastgen_assign_points);
  else
    return 500;  // CUDA_ERROR_NOT_FOUND
  return 0;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
// Blocks that need not be resident together run one after another.
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned,
                   unsigned, unsigned shared, void*, void** parameters, void**) {
  for (unsigned b = 0; b < blocks; ++b)
    if (const int error = launch(function, b, 1, threads, shared, parameters)) return error;
  return 0;
}
int cuLaunchCooperativeKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads,
                              unsigned, unsigned, unsigned shared, void*, void** parameters) {
  return launch(function, 0, blocks, threads, shared, parameters);
}
}
