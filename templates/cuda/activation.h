/* UNARY: GELU, GELU_TANH, RELU, RELU_SQUARED, SCALE, SOFTCAP, operation by operation as templates/cpu/activation.h. */
#ifndef N730_CUDA_ACTIVATION_H
#define N730_CUDA_ACTIVATION_H
#include "exp.h"

N730_DEVICE float bits(unsigned v) { return __uint_as_float(v); }

N730_DEVICE float tanh_f32(float x) {
    const float a = fabsf(x), s = x * x;
    float p = bits(0xbbbaf0dcu);
    p = p * s + bits(0x3ca9134bu);
    p = p * s + bits(0xbd5c1e2du);
    p = p * s + bits(0x3e088393u);
    p = p * s + bits(0xbeaaaa99u);
    const float near = x + x * (s * p), far = 1.0f - 2.0f / (exp_f32(a + a) + 1.0f);
    return a >= 0.625f ? bits(__float_as_uint(far) | (__float_as_uint(x) & 0x80000000u)) : near;
}
N730_DEVICE float softcap_f32(float x, float cap) { return cap * tanh_f32(x / cap); }

struct Gelu {
    static __device__ __forceinline__ float of(float x, float) {
        const float u = fabsf(x), t = 1.0f / (1.0f + 0.3f * u);
        float q = bits(0x3d139a85u);
        q = q * t + bits(0xbe228586u);
        q = q * t + bits(0x3e55fa4du);
        q = q * t + bits(0xbd65c2e3u);
        q = q * t + bits(0x3e04f56bu);
        q = q * t + bits(0x3dcbd2e8u);
        q = q * t + bits(0x3df76ed2u);
        q = q * t + bits(0x3df4fe0au);
        const float h = (t * q) * exp_f32(-0.5f * (u * u)), xh = x * h;
        return x >= 0.0f ? x - xh : xh;
    }
};
struct GeluTanh {
    static __device__ __forceinline__ float of(float x, float) {
        const float inner = x + (0.044715f * x) * (x * x);
        return x / (1.0f + exp_f32(-1.59576912f * inner));
    }
};
struct Relu {
    static __device__ __forceinline__ float of(float x, float) { return larger(0.0f, x); }
};
struct ReluSquared {
    static __device__ __forceinline__ float of(float x, float) { return larger(0.0f, x) * larger(0.0f, x); }
};
struct Scale {
    static __device__ __forceinline__ float of(float x, float f0) { return x * f0; }
};
struct Softcap {
    static __device__ __forceinline__ float of(float x, float f0) { return softcap_f32(x, f0); }
};
#endif
