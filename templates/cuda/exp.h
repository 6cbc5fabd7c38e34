/* exp in FP32, operation by operation as templates/cpu/exp.h. */
#ifndef N730_CUDA_EXP_H
#define N730_CUDA_EXP_H
#include "formats.h"

N730_DEVICE float exp_f32(float x) {
    const float magic = 12582912.0f; /* 1.5 × 2^23: adding it rounds to an integer, half to even */
    if (x != x) return x;
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    const float k = (x * 1.44269504f + magic) - magic;
    const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float q = __uint_as_float(0x3ab510d6u); /* 0x1.6a21acp-10 and so on */
    q = q * r + __uint_as_float(0x3c091db5u);
    q = q * r + __uint_as_float(0x3d2aac7du);
    q = q * r + __uint_as_float(0x3e2aaa48u);
    q = q * r + __uint_as_float(0x3efffffeu);
    const float y = (q * (r * r) + r) + 1.0f;
    return y * power_of_two(__float2int_rn(k));
}
N730_DEVICE float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }
#endif
