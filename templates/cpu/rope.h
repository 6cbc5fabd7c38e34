/* ROPE_TABLE: n cosines, then n sines of each token's position. Work items: tokens. cols: n; f0: their scaling.
 * ROPE: rotates the first rotary_dim elements of each head by halves (i with i + n) or by pairs (2i with 2i + 1).
 * Work items: tokens × heads. */
#ifndef N730_ROPE_H
#define N730_ROPE_H
#include "n730_call.h"
#include "trig.h"

N730_FN void rope_table(const n730_call *call, int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token++) {
        float *out = (float *)((char *)call->out + token * call->out_stride);
        for (int64_t i = 0; i < call->cols; i++) {
            float sine, cosine;
            sin_cos((float)(call->position + token) * load_f32_be(call->weight + 4 * i), &sine, &cosine);
            out[i] = cosine * call->f[0];
            out[call->cols + i] = sine * call->f[0];
        }
    }
}

N730_FN void rope(const n730_call *call, int64_t begin, int64_t end, int pairs) {
    const int64_t n = call->rotary_dim / 2, dim = call->head_dim;
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / call->heads, offset = item % call->heads * dim;
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + offset;
        const float *table = (const float *)((const char *)call->in[1] + token * call->in_stride[1]);
        float *out = (float *)((char *)call->out + token * call->out_stride) + offset;
        for (int64_t i = 0; pairs && i < n; i++) {
            const float a = x[2 * i], b = x[2 * i + 1], c = table[i], s = table[n + i];
            out[2 * i] = a * c - b * s;
            out[2 * i + 1] = b * c + a * s;
        }
        for (int64_t i = 0; !pairs && i < n; i += 8) {
            int64_t left = n - i;
            f32x8 a = f8_load_part(x + i, left), b = f8_load_part(x + n + i, left);
            f32x8 c = f8_load_part(table + i, left), s = f8_load_part(table + n + i, left);
            f8_store_part(out + i, f8_sub(f8_mul(a, c), f8_mul(b, s)), left);
            f8_store_part(out + n + i, f8_add(f8_mul(b, c), f8_mul(a, s)), left);
        }
        for (int64_t i = 2 * n; i < dim; i++) out[i] = x[i];
    }
}
#endif
