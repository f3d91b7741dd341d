// Maps of matrices for copies of tiles (map.h), made by the driver.
#pragma once
#include "map.h"

namespace spatiallm {

// Of a row-major matrix of halves whose rows are a multiple of 16 bytes, in boxes of 64 columns. Null, or why not.
const char *describe(TensorMap &, const void *start, int rows, int columns, int box_rows, bool bf16) noexcept;

}  // namespace spatiallm
