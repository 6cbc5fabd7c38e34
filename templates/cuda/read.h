/* Reads memory as fast as it goes, for n730-exec probe: pieces of 16 bytes begin … end − 1 of in[0], a word of their XOR a thread. */
#ifndef N730_CUDA_READ_H
#define N730_CUDA_READ_H
#include "device.h"

N730_DEVICE void read_memory(const n730_cuda_call &call) {
    const int thread = blockIdx.y * blockDim.x + threadIdx.x, threads = gridDim.y * blockDim.x;
    const uint4 *data = (const uint4 *)call.in[0];
    unsigned sum = 0;
#pragma unroll 8
    for (int i = call.begin + thread; i < call.end; i += threads) {
        const uint4 v = __ldg(data + i);
        sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    ((unsigned *)call.out)[thread] = sum;
}
#endif
