// Calls of the operator as CUDA graphs. The first of its kind is launched as it is, the second is captured, later ones are
// replayed.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <list>
#include <string>

#include "launch.h"

namespace spatiallm {

using Key = std::string;  // bytes: shapes and addresses

Key key_of(ModelSizes const &, LanguageModelTensors const &, void *workspace);

class Graphs {
 public:
  using Launch = std::function<char const *(cudaStream_t)>;  // null, or why it has failed

  Graphs() = default;
  ~Graphs();
  Graphs(Graphs const &) = delete;

  // Null, or why it has failed. A stream that is being captured already takes the launches themselves.
  char const *run(Key const &, cudaStream_t, Launch const &);

 private:
  static constexpr size_t KEPT = 8;

  struct Entry {
    Key key;
    cudaGraphExec_t graph = nullptr;
    bool refused = false;
  };

  cudaGraphExec_t capture(Launch const &) noexcept;

  std::list<Entry> entries_;  // the last used first
  cudaStream_t stream_ = nullptr;  // on which is captured; nothing runs there
};

}  // namespace spatiallm
