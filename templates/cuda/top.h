/* The K largest of begin … end − 1 numbers, largest first, the lower index before a higher one of the same value.
 *
 * A block sorts a slice of SLICE and keeps its K best as keys: a float whose bits were made to sort as integers, above
 * the complement of its index. Launched on its own output (FROM_KEYS) until one slice is left: out[0 … K − 1]. */
#ifndef N730_CUDA_TOP_H
#define N730_CUDA_TOP_H
#include "device.h"

enum { SLICE = 1024 };

N730_DEVICE unsigned long long sort_key(float x, unsigned index) {
    unsigned bits = __float_as_uint(x + 0.0f); /* −0 is as large as +0 */
    bits = x != x ? 0u : bits >> 31 ? ~bits : bits | 0x80000000u; /* NaN last */
    return (unsigned long long)bits << 32 | ~index;
}

template <int K, bool FROM_KEYS>
N730_DEVICE void top(const n730_cuda_call &call) {
    __shared__ unsigned long long keys[SLICE];
    const int first = call.begin + blockIdx.y * SLICE;
    for (int i = threadIdx.x; i < SLICE; i += blockDim.x) {
        const int at = first + i;
        unsigned long long key = 0; /* below every key of a number: the index is never all ones */
        if (at < call.end) key = FROM_KEYS ? ((const unsigned long long *)call.in[0])[at] : sort_key(((const float *)call.in[0])[at], at);
        keys[i] = key;
    }
    for (int size = 2; size <= SLICE; size *= 2) /* bitonic, descending */
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < SLICE / 2; i += blockDim.x) {
                const int a = 2 * step * (i / step) + i % step, b = a + step;
                const bool descending = (a & size) == 0;
                const unsigned long long u = keys[a], v = keys[b];
                if ((u < v) == descending) keys[a] = v, keys[b] = u;
            }
        }
    __syncthreads();
    for (int i = threadIdx.x; i < K; i += blockDim.x) ((unsigned long long *)call.out)[blockIdx.y * K + i] = keys[i];
}
#endif
