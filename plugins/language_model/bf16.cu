#define HALF_IS_BF16 1
#define VARIANT bf16
#include "variant.cuh"
