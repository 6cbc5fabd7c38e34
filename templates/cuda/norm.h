/* RMS_NORM: out = w · (x · r), r = 1 / sqrt(mean(x²) + eps). A block a token. f0: eps.
 *
 * The eight partial sums of FORMAT.md are chains of additions, so eight threads add what all have squared. */
#ifndef N730_CUDA_NORM_H
#define N730_CUDA_NORM_H
#include "device.h"

/* ((s0+s4)+(s2+s6)) + ((s1+s5)+(s3+s7)) of eight neighbouring lanes, in all of them */
N730_DEVICE float sum_of_eight(float s) {
    s = s + __shfl_xor_sync(N730_WARP, s, 4);
    s = s + __shfl_xor_sync(N730_WARP, s, 2);
    return s + __shfl_xor_sync(N730_WARP, s, 1);
}

template <int CHUNK>
N730_DEVICE void rms_norm(const n730_cuda_call &call, int width) {
    __shared__ float squares[CHUNK], root;
    const int token = blockIdx.x, thread = threadIdx.x;
    const float *x = input(call, 0, token);
    float sum = 0.0f;
    for (int base = 0; base < width; base += CHUNK) {
        const int count = at_most(CHUNK, width - base);
        for (int i = thread; i < count; i += blockDim.x) squares[i] = x[base + i] * x[base + i];
        __syncthreads();
        if (thread < 8) {
#pragma unroll 8
            for (int i = thread; i < count; i += 8) sum = sum + squares[i];
        }
        __syncthreads();
    }
    if (thread < 32) {
        sum = sum_of_eight(sum);
        if (thread == 0) root = 1.0f / sqrtf(sum / (float)width + call.f0);
    }
    __syncthreads();
    const float r = root;
    for (int i = thread; i < width; i += blockDim.x)
        output(call, token)[i] = load_f32_be(call.weight + 4ll * i) * (x[i] * r);
}
#endif
