// A matrix of halves as the machine copies tiles of it into shared memory: boxes of 64 columns, their rows as tiles for
// warpgroups have them, zeros beyond its ends.
#pragma once

#ifdef EMULATED
struct TensorMap {
  const unsigned short *start;
  int rows, columns, box_rows;
};
#else
#include <cuda.h>
typedef CUtensorMap TensorMap;
#endif
