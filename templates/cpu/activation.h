/* Functions of one element beside silu, from additions, multiplications and one division each, so that every machine
 * gives the same bits. The polynomials were found by Lawson's iteration; NaN stays NaN. */
#ifndef N730_ACTIVATION_H
#define N730_ACTIVATION_H
#include "exp.h"

N730_FN f32x8 f8_select(f32x8 mask, f32x8 a, f32x8 b) { return f8_or(f8_and(mask, a), f8_andnot(mask, b)); }

/* Below 0.625: x + x³ p(x²), p of degree 4 (relative error 4.4e-9); above: 1 − 2 / (e^2|x| + 1) with the sign of x. */
N730_FN f32x8 f8_tanh(f32x8 x) {
    const f32x8 one = f8_set(1.0f), a = f8_abs(x), s = f8_mul(x, x);
    f32x8 p = f8_set(-0x1.75e1b8p-8f);
    p = f8_add(f8_mul(p, s), f8_set(0x1.522696p-6f));
    p = f8_add(f8_mul(p, s), f8_set(-0x1.b83c5ap-5f));
    p = f8_add(f8_mul(p, s), f8_set(0x1.110726p-3f));
    p = f8_add(f8_mul(p, s), f8_set(-0x1.555532p-2f));
    const f32x8 near = f8_add(x, f8_mul(x, f8_mul(s, p)));
    const f32x8 far = f8_sub(one, f8_div(f8_set(2.0f), f8_add(f8_exp(f8_add(a, a)), one)));
    const f32x8 sign = f8_and(x, f8_set(-0.0f));
    return f8_select(f8_ge(a, f8_set(0.625f)), f8_or(far, sign), near);
}

/* x Φ(x): with u = |x|, t = 1 / (1 + 0.3 u) and h = Φ(−u) = t q(t) e^(−u²/2), q of degree 7 (relative error 1.2e-7):
 * x h below 0, x − x h from there on. */
N730_FN f32x8 f8_gelu(f32x8 x) {
    const f32x8 u = f8_abs(x);
    const f32x8 t = f8_div(f8_set(1.0f), f8_add(f8_set(1.0f), f8_mul(f8_set(0.3f), u)));
    f32x8 q = f8_set(0x1.27350ap-5f);
    q = f8_add(f8_mul(q, t), f8_set(-0x1.450b0cp-3f));
    q = f8_add(f8_mul(q, t), f8_set(0x1.abf49ap-3f));
    q = f8_add(f8_mul(q, t), f8_set(-0x1.cb85c6p-5f));
    q = f8_add(f8_mul(q, t), f8_set(0x1.09ead6p-3f));
    q = f8_add(f8_mul(q, t), f8_set(0x1.97a5dp-4f));
    q = f8_add(f8_mul(q, t), f8_set(0x1.eedda4p-4f));
    q = f8_add(f8_mul(q, t), f8_set(0x1.e9fc14p-4f));
    const f32x8 h = f8_mul(f8_mul(t, q), f8_exp(f8_mul(f8_set(-0.5f), f8_mul(u, u)))), xh = f8_mul(x, h);
    return f8_select(f8_ge(x, f8_zero()), f8_sub(x, xh), xh);
}

/* x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) = x / (1 + e^(−2 √(2/π) (x + 0.044715 x³))) */
N730_FN f32x8 f8_gelu_tanh(f32x8 x) {
    const f32x8 inner = f8_add(x, f8_mul(f8_mul(f8_set(0.044715f), x), f8_mul(x, x)));
    return f8_div(x, f8_add(f8_set(1.0f), f8_exp(f8_mul(f8_set(-1.59576912f), inner))));
}

N730_FN f32x8 f8_relu(f32x8 x) { return f8_max(f8_zero(), x); }

/* cap · tanh(x / cap) */
N730_FN f32x8 f8_softcap(f32x8 x, f32x8 cap) { return f8_mul(cap, f8_tanh(f8_div(x, cap))); }
#endif
