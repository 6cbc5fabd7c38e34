/* exp in FP32 from additions and multiplications only, so that every machine gives the same bits.
 *
 * x = k ln 2 + r, |r| ≤ ln 2 / 2; e^r = 1 + r + r² q(r), q a minimax polynomial of degree 4 (relative error 3.1e-9,
 * found by Lawson's iteration); in all below 1.4 units of 2^-24. Arguments are clamped to −87 … 88; NaN stays NaN. */
#ifndef N730_EXP_H
#define N730_EXP_H
#include "simd.h"

N730_FN f32x8 f8_exp(f32x8 x) {
    const f32x8 magic = f8_set(12582912.0f); /* 1.5 × 2^23: adding it rounds to an integer, half to even */
    f32x8 nan = f8_nan(x);
    x = f8_min(f8_max(x, f8_set(-87.0f)), f8_set(88.0f));
    f32x8 k = f8_sub(f8_add(f8_mul(x, f8_set(1.44269504f)), magic), magic);
    f32x8 r = f8_sub(f8_sub(x, f8_mul(k, f8_set(0.693359375f))), f8_mul(k, f8_set(-2.12194440e-4f)));
    f32x8 q = f8_set(0x1.6a21acp-10f);
    q = f8_add(f8_mul(q, r), f8_set(0x1.123b6ap-7f));
    q = f8_add(f8_mul(q, r), f8_set(0x1.5558fap-5f));
    q = f8_add(f8_mul(q, r), f8_set(0x1.55549p-3f));
    q = f8_add(f8_mul(q, r), f8_set(0x1.fffffcp-2f));
    f32x8 y = f8_add(f8_add(f8_mul(q, f8_mul(r, r)), r), f8_set(1.0f));
    return f8_or(f8_scale2(y, f8_round(k)), nan);
}

N730_FN float exp_f32(float x) {
    float v[8];
    f8_store(v, f8_exp(f8_set(x)));
    return v[0];
}

/* x / (1 + e^-x) */
N730_FN f32x8 f8_silu(f32x8 x) { return f8_div(x, f8_add(f8_set(1.0f), f8_exp(f8_neg(x)))); }
#endif
