// As much of CUDA's header as the borders of our operators name, for machines without it.
#pragma once
typedef struct CUstream_st *cudaStream_t;
