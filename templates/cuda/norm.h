/* RMS_NORM: out = w · (x · r), r = 1 / sqrt(mean(x²) + eps). LAYER_NORM: d = x − mean(x), out = w · (d · r) (+ bias),
 * r = 1 / sqrt(mean(d²) + eps). f0: eps. A block a token and group of as many elements as the weight has.
 *
 * The eight partial sums of FORMAT.md are chains of additions, so eight threads add what all have brought. */
#ifndef N730_CUDA_NORM_H
#define N730_CUDA_NORM_H
#include "device.h"

/* ((s0+s4)+(s2+s6)) + ((s1+s5)+(s3+s7)) of eight neighbouring lanes, in all of them */
N730_DEVICE float sum_of_eight(float s) {
    s = s + __shfl_xor_sync(N730_WARP, s, 4);
    s = s + __shfl_xor_sync(N730_WARP, s, 2);
    return s + __shfl_xor_sync(N730_WARP, s, 1);
}

/* The sum of x − mean or, SQUARED, of their squares, in all threads of the block. */
template <int CHUNK, bool SQUARED>
N730_DEVICE float block_sum(const float *x, int width, float mean, float *part, float *total) {
    const int thread = threadIdx.x;
    float sum = 0.0f;
    for (int base = 0; base < width; base += CHUNK) {
        const int count = at_most(CHUNK, width - base);
        for (int i = thread; i < count; i += blockDim.x) {
            const float d = x[base + i] - mean;
            part[i] = SQUARED ? d * d : d;
        }
        __syncthreads();
        if (thread < 8) {
#pragma unroll 8
            for (int i = thread; i < count; i += 8) sum = sum + part[i];
        }
        __syncthreads();
    }
    if (thread < 32) {
        sum = sum_of_eight(sum);
        if (thread == 0) *total = sum;
    }
    __syncthreads();
    return *total;
}

template <int CHUNK, bool CENTRED>
N730_DEVICE void norm(const n730_cuda_call &call, int width) {
    __shared__ float part[CHUNK], total[2];
    const int token = blockIdx.x, first = blockIdx.y * width;
    const float *x = input(call, 0, token) + first;
    const float mean = CENTRED ? block_sum<CHUNK, false>(x, width, 0.0f, part, total) / (float)width : 0.0f;
    const float r = 1.0f / sqrtf(block_sum<CHUNK, true>(x, width, mean, part, total + 1) / (float)width + call.f0);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float y = load_f32_be(call.weight + 4ll * i) * ((x[i] - mean) * r);
        output(call, token)[first + i] = CENTRED && call.bias ? y + load_f32_be(call.bias + 4ll * i) : y;
    }
}
#endif
