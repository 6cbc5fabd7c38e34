/* ADD, MUL, SILU, SILU_MUL, UNARY: a thread an element. QUANTIZE: a warp a group of 32, a lane an element. */
#ifndef N730_CUDA_ELEMENTWISE_H
#define N730_CUDA_ELEMENTWISE_H
#include "activation.h"

struct Add {
    static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};
struct Mul {
    static __device__ __forceinline__ float of(float a, float b) { return a * b; }
};
struct SiluMul {
    static __device__ __forceinline__ float of(float a, float b) { return silu_f32(a) * b; }
};
struct Silu {
    static __device__ __forceinline__ float of(float a, float) { return silu_f32(a); }
};

template <class Op, int INPUTS>
N730_DEVICE void elementwise(const n730_cuda_call &call, int width) {
    const int token = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= width) return;
    output(call, token)[i] = Op::of(input(call, 0, token)[i], INPUTS > 1 ? input(call, 1, token)[i] : call.f0);
}

/* The largest |x| of a warp (NaN counts as nothing), and an element as the rule of QUANTIZE rounds it. */
N730_DEVICE float warp_largest(float m) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) m = larger(__shfl_xor_sync(N730_WARP, m, i), m);
    return m;
}
N730_DEVICE int quantized(float x, float inverse) {
    float t = x * inverse;
    if (t != t) t = 0.0f;
    t = t > -127.0f ? t : -127.0f;
    return __float2int_rn(t < 127.0f ? t : 127.0f);
}

N730_DEVICE void quantize(const n730_cuda_call &call, int width) {
    const int token = blockIdx.x, lane = threadIdx.x & 31, groups = (width + GROUP - 1) / GROUP;
    const int g = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, k = g * GROUP + lane;
    if (g >= groups) return;
    const float x = k < width ? input(call, 0, token)[k] : 0.0f;
    const float most = warp_largest(larger(fabsf(x), 0.0f));
    const int q = quantized(x, most > 0.0f ? 127.0f / most : 0.0f);
    int sum = q;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(N730_WARP, sum, i);
    unsigned char *out = call.out + token * call.out_stride, *side = out + 32ll * groups;
    out[k] = (unsigned char)q;
    if (lane == 0) {
        ((float *)side)[g] = most / 127.0f;
        ((int *)side)[groups + g] = sum;
    }
}
#endif
