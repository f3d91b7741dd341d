#define HALF_IS_BF16 0
#define VARIANT fp16
#include "variant.cuh"
