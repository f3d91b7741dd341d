// A cuBLASLt that computes nothing. It counts what is alive, and refuses where the environment says so.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>

static std::atomic<int> alive{0};

static int make(void **made) { return *made = &alive, ++alive, 0; }
static int end() { return --alive, 0; }

extern "C" {
int fake_alive() { return alive; }
int cublasLtCreate(void **handle) { return std::getenv("FAKE_CUBLASLT_REFUSES") != nullptr ? 1 : (*handle = &alive, 0); }
int cublasLtDestroy(void *) { return 0; }
int cublasLtMatmulDescCreate(void **made, int, int) { return make(made); }
int cublasLtMatmulDescSetAttribute(void *, int, void const *, size_t) { return 0; }
int cublasLtMatmulDescDestroy(void *) { return end(); }
int cublasLtMatrixLayoutCreate(void **made, int, unsigned long long, unsigned long long, long long) { return make(made); }
int cublasLtMatrixLayoutDestroy(void *) { return end(); }
int cublasLtMatmulPreferenceCreate(void **made) { return make(made); }
int cublasLtMatmulPreferenceSetAttribute(void *, int, void const *, size_t) { return 0; }
int cublasLtMatmulPreferenceDestroy(void *) { return end(); }
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *, int *found) {
  return *found = 1, 0;
}
int cublasLtMatmul(void *, void *, void const *, void const *, void *, void const *, void *, void const *, void const *, void *,
                   void *, void *, void const *, void *, size_t, void *) {
  return 0;
}
}
