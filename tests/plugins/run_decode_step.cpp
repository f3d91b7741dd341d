// The decode kernel on the CPU, called from Python.
#define EMULATED
#include KERNEL

extern "C" void run(const StepArguments *arguments, unsigned grid, unsigned seed) {
  const StepArguments a = *arguments;
  emulated::launch(grid, THREADS + 32, sizeof(Memory), seed, [&a] { decode_step(a); });
}
