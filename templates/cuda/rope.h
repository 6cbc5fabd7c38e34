/* ROPE_TABLE: n cosines, then n sines of each token's position. A thread an angle. f0: their scaling.
 * ROPE: rotates the first rotary_dim elements of each head, by halves (i with i + n) or by PAIRS (2i with 2i + 1); the rest is
 * copied. A thread a pair or an element. */
#ifndef N730_CUDA_ROPE_H
#define N730_CUDA_ROPE_H
#include "device.h"

/* Sine and cosine in double precision, operation by operation as templates/cpu/trig.h. */
N730_DEVICE void sin_cos(float angle, float *sine, float *cosine) {
    const double a = (double)angle;
    if (!(a > -33554432.0 && a < 33554432.0)) {
        *sine = *cosine = __uint_as_float(0x7fc00000u);
        return;
    }
    const long long k = (long long)(a * __longlong_as_double(0x3fe45f306dc9c883ll) + (a < 0 ? -0.5 : 0.5));
    const double n = (double)k;
    const double r = ((a - n * __longlong_as_double(0x3ff921fb54000000ll)) - n * __longlong_as_double(0x3e110b4610000000ll)) -
                     n * __longlong_as_double(0x3c5a62633145c06ell);
    const double z = r * r;
    double s = 1.0, c = 1.0;
#pragma unroll 1
    for (int i = 18; i > 0; i -= 2) { /* Horner: 1 − z/(1·2) (1 − z/(3·4) (…)) */
        s = 1.0 - z / (double)(i * (i + 1)) * s;
        c = 1.0 - z / (double)(i * (i - 1)) * c;
    }
    s = s * r;
    const double even = k & 1 ? c : s, odd = k & 1 ? s : c; /* quarter k mod 4 of s, c, −s, −c, and the next */
    *sine = (float)(k & 2 ? -even : even);
    *cosine = (float)((k + 1) & 2 ? -odd : odd);
}

N730_DEVICE void rope_table(const n730_cuda_call &call, int angles) {
    const int token = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= angles) return;
    float sine, cosine, *out = output(call, token);
    sin_cos((float)(call.position + token) * load_f32_be(call.weight + 4ll * i), &sine, &cosine);
    out[i] = cosine * call.f0;
    out[angles + i] = sine * call.f0;
}

template <bool PAIRS>
N730_DEVICE void rope(const n730_cuda_call &call, int heads, int dim, int rotary_dim) {
    const int n = rotary_dim / 2, each = dim - n, token = blockIdx.x; /* n pairs and dim − 2n others a head */
    const int item = blockIdx.y * blockDim.x + threadIdx.x, head = item / each, i = item % each;
    if (head >= heads) return;
    const float *x = input(call, 0, token) + head * dim, *table = input(call, 1, token);
    float *out = output(call, token) + head * dim;
    if (i < n) {
        const int first = PAIRS ? 2 * i : i, second = PAIRS ? first + 1 : n + i;
        const float a = x[first], b = x[second], c = table[i], s = table[n + i];
        out[first] = a * c - b * s;
        out[second] = b * c + a * s;
    } else {
        out[n + i] = x[n + i];
    }
}
#endif
