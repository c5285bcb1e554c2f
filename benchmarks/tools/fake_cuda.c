/* A libcuda.so.1 that launches nothing: it keeps the parameters of the last launch. */
#include <stdint.h>
#include <string.h>

typedef int CUresult;
typedef struct {
  unsigned gx, gy, gz, bx, by, bz, shared;
  void *stream, *attributes;
  unsigned count;
} Config;

#define MAX_PARAMETERS 96
uint64_t fake_parameters[MAX_PARAMETERS];
unsigned fake_grid[8];
void* fake_stream;
int fake_launches, fake_count;

static CUresult launched(const Config* c, void** parameters) {
  unsigned shape[] = {c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared};
  memcpy(fake_grid, shape, sizeof shape);
  fake_stream = c->stream;
  for (int i = 0; i < fake_count && i < MAX_PARAMETERS; i++)
    memcpy(&fake_parameters[i], parameters[i], 8);
  fake_launches++;
  return 0;
}

CUresult cuLaunchKernelEx(const Config* c, void* f, void** p, void** e) { return launched(c, p); }
CUresult cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void* stream, void** p, void** e) {
  Config c = {gx, gy, gz, bx, by, bz, shared, stream, 0, 0};
  return launched(&c, p);
}

static char nowhere[16];
static CUresult give(void** x) {
  *x = nowhere;
  return 0;
}
CUresult cuInit(unsigned f) { return 0; }
CUresult cuDriverGetVersion(int* v) {
  *v = 13000;
  return 0;
}
CUresult cuGetErrorString(int e, const char** s) {
  *s = "fake";
  return 0;
}
CUresult cuGetErrorName(int e, const char** s) {
  *s = "fake";
  return 0;
}
CUresult cuDeviceGet(int* d, int i) {
  *d = i;
  return 0;
}
CUresult cuDeviceGetAttribute(int* v, int a, int d) {
  *v = a == 97 || a == 8 ? 232448 : a == 16 ? 132 : 1024; /* shared memory, multiprocessors */
  return 0;
}
CUresult cuDevicePrimaryCtxRetain(void** c, int d) { return give(c); }
CUresult cuCtxGetCurrent(void** c) { return give(c); }
CUresult cuCtxSetCurrent(void* c) { return 0; }
CUresult cuCtxPushCurrent_v2(void* c) { return 0; }
CUresult cuCtxPopCurrent_v2(void** c) { return give(c); }
CUresult cuCtxGetLimit(size_t* v, int a) {
  *v = 0;
  return 0;
}
CUresult cuCtxSetLimit(int a, size_t v) { return 0; }
CUresult cuModuleLoadData(void** m, const void* i) { return give(m); }
CUresult cuModuleGetFunction(void** f, void* m, const char* n) { return give(f); }
CUresult cuFuncGetAttribute(int* v, int a, void* f) {
  *v = a == 0 ? 1024 : 0;
  return 0;
}
CUresult cuFuncSetAttribute(void* f, int a, int v) { return 0; }
CUresult cuFuncSetCacheConfig(void* f, int c) { return 0; }
CUresult cuFuncLoad(void* f) { return 0; }
CUresult cuPointerGetAttribute(void* d, int a, uint64_t p) {
  *(uint64_t*)d = p;
  return 0;
}
CUresult cuPointerGetAttributes(unsigned n, int* a, void** d, uint64_t p) {
  *(uint64_t*)d[0] = p;
  return 0;
}
CUresult cuOccupancyMaxActiveClusters(int* n, void* f, void* c) {
  *n = 1;
  return 0;
}
CUresult cuMemcpyHtoD_v2(uint64_t d, const void* s, size_t n) { return 0; }
CUresult cuTensorMapEncodeTiled(void) { return 0; }
CUresult cuTensorMapEncodeIm2col(void) { return 0; }
