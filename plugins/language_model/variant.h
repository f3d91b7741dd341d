// What each half type's file gives to launch.cpp.
#pragma once
#include "launch.h"

#define SPATIALLM_VARIANT(name)                                                                             \
  namespace spatiallm::name {                                                                               \
  size_t workspace(const ModelSizes &, int batch, int rows, int past_rows, int all_logits) noexcept;        \
  const char *run(const ModelSizes &, const LanguageModelTensors &, void *workspace, cudaStream_t) noexcept; \
  }

SPATIALLM_VARIANT(fp16)
SPATIALLM_VARIANT(bf16)
