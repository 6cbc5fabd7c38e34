/* sine and cosine of an FP32 angle in double precision, without libm: the same bits on every system.
 *
 * The angle is reduced by multiples of π/2 (held in three parts, so that the products are exact) to |r| ≤ π/4 and
 * summed by Taylor's series; the error is below 2^-52 of the result's scale. Angles of 2^25 and above, infinite or NaN
 * give NaN: positions end at 2^24 and inverse frequencies are at most 1. */
#ifndef N730_TRIG_H
#define N730_TRIG_H
#include "simd.h"

N730_FN void sin_cos(float angle, float *sine, float *cosine) {
    const double half_pi[3] = {0x1.921fb54p+0, 0x1.10b461p-30, 0x1.a62633145c06ep-58};
    double a = (double)angle, s, c;
    if (!(a > -33554432.0 && a < 33554432.0)) {
        *sine = *cosine = __builtin_nanf("");
        return;
    }
    int64_t k = (int64_t)(a * 0x1.45f306dc9c883p-1 + (a < 0 ? -0.5 : 0.5));
    double n = (double)k, r = ((a - n * half_pi[0]) - n * half_pi[1]) - n * half_pi[2], z = r * r;
    s = c = 0.0;
    for (int i = 18; i > 0; i -= 2) { /* Horner: 1 − z/(1·2) (1 − z/(3·4) (…)) */
        s = 1.0 - z / (double)(i * (i + 1)) * (i == 18 ? 1.0 : s);
        c = 1.0 - z / (double)(i * (i - 1)) * (i == 18 ? 1.0 : c);
    }
    s *= r;
    double quarter[4] = {s, c, -s, -c};
    *sine = (float)quarter[k & 3];
    *cosine = (float)quarter[(k + 1) & 3];
}
#endif
