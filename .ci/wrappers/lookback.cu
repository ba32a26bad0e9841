// A kernel for each piece of PTX that is written by hand in kernels/lookback.cuh: .ci/ptx compiles them and
// compares the PTX with the file beside this one. The emulator runs other code in their place, so nothing
// else shows which operand goes where. A parameter stands for each operand, in the order of the wrapper's own
// arguments.
#define ACT_F32 1
#include "lookback.cuh"

#define WRAPPER extern "C" __global__ void

WRAPPER read_relaxed(uint64_t* y, const uint64_t* from) { *y = peek(from); }
WRAPPER write_relaxed(uint64_t* to, uint64_t x) { publish(to, x); }
