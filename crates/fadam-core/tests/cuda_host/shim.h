// What step.cu needs of CUDA, for a host compiler: one thread runs the blocks one after another, and in each block what
// lies between two barriers for each thread in turn. `backwards` turns both orders around, which changes no bit of the
// result unless a kernel reads what another of its threads or blocks writes.
#pragma once

#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static
#define __noinline__
#define __launch_bounds__(threads)

static struct { unsigned x; } blockIdx;
static bool backwards;

#define EACH_THREAD(thread)                                                                               \
    for (unsigned thread##_k = 0, thread;                                                                 \
         thread##_k < THREADS && (thread = backwards ? THREADS - 1 - thread##_k : thread##_k, true);      \
         thread##_k++)

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
    const unsigned long long old = *at;
    if (value < old) *at = value;
    return old;
}
