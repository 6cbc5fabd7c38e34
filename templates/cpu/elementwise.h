/* ADD, MUL, SILU, SILU_MUL, UNARY and QUANTIZE. Work items: tokens × chunks of 256 elements, token by token. */
#ifndef N730_ELEMENTWISE_H
#define N730_ELEMENTWISE_H
#include "activation.h"
#include "n730_call.h"

enum { CHUNK = 256 };
enum { UNARY_SILU, BINARY_SILU_MUL, BINARY_ADD, BINARY_MUL };
/* p0 of UNARY; SCALE and SOFTCAP take f0 */
enum { UNARY_GELU = 1, UNARY_GELU_TANH, UNARY_RELU, UNARY_RELU_SQUARED, UNARY_SCALE, UNARY_SOFTCAP };

N730_FN void unary(const n730_call *call, int64_t begin, int64_t end, int what) {
    const int64_t chunks = (call->cols + CHUNK - 1) / CHUNK;
    const f32x8 f0 = f8_set(call->f[0]);
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / chunks, first = item % chunks * CHUNK, n = call->cols - first;
        const float *in = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + first;
        float *out = (float *)((char *)call->out + token * call->out_stride) + first;
        if (n > CHUNK) n = CHUNK;
        for (int64_t i = 0; i < n; i += 8) {
            f32x8 x = f8_load_part(in + i, n - i);
            if (what == UNARY_GELU) x = f8_gelu(x);
            if (what == UNARY_GELU_TANH) x = f8_gelu_tanh(x);
            if (what == UNARY_RELU || what == UNARY_RELU_SQUARED) x = f8_relu(x);
            if (what == UNARY_RELU_SQUARED) x = f8_mul(x, x);
            if (what == UNARY_SCALE) x = f8_mul(x, f0);
            if (what == UNARY_SOFTCAP) x = f8_softcap(x, f0);
            f8_store_part(out + i, x, n - i);
        }
    }
}

N730_FN void elementwise(const n730_call *call, int64_t begin, int64_t end, int what) {
    const int64_t chunks = (call->cols + CHUNK - 1) / CHUNK;
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / chunks, first = item % chunks * CHUNK, n = call->cols - first;
        const float *a = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + first;
        const float *b = 0;
        float *out = (float *)((char *)call->out + token * call->out_stride) + first;
        if (what != UNARY_SILU) b = (const float *)((const char *)call->in[1] + token * call->in_stride[1]) + first;
        if (n > CHUNK) n = CHUNK;
        for (int64_t i = 0; i < n; i += 8) {
            f32x8 x = f8_load_part(a + i, n - i), y = x;
            if (what != UNARY_SILU) y = f8_load_part(b + i, n - i);
            if (what == UNARY_SILU) x = f8_silu(x);
            if (what == BINARY_SILU_MUL) x = f8_mul(f8_silu(x), y);
            if (what == BINARY_ADD) x = f8_add(x, y);
            if (what == BINARY_MUL) x = f8_mul(x, y);
            f8_store_part(out + i, x, n - i);
        }
    }
}

/* One group of 32: q[32], its scale and the sum of q. x beyond n is zero; NaN counts as zero. */
N730_FN void quantize_group(const float *x, int64_t n, int8_t *q, float *scale, int32_t *sum) {
    f32x8 v[4], m = f8_zero();
    i32x8 total = i8_zero();
    N730_UNROLL for (int i = 0; i < 4; i++) {
        v[i] = n > 8 * i ? f8_load_part(x + 8 * i, n - 8 * i) : f8_zero();
        m = f8_max(f8_abs(v[i]), m); /* NaN leaves m alone */
    }
    float most = f8_hmax(m);
    f32x8 inverse = f8_set(most > 0.0f ? 127.0f / most : 0.0f);
    *scale = most / 127.0f;
    N730_UNROLL for (int i = 0; i < 4; i++) {
        i32x8 r = f8_to_q8(v[i], inverse);
        total = i ? i8_add(total, r) : r;
        i8_store_bytes(q + 8 * i, r);
    }
    *sum = (int32_t)f8_sum(i8_to_f8(total)); /* |sum| ≤ 32 × 127: exact in FP32 */
}

/* Q8 of one token: padded int8 values, f32 scales, i32 sums. Q16: behind it that of what this leaves over. */
N730_FN void quantize(const n730_call *call, int64_t begin, int64_t end) {
    const int64_t chunks = (call->cols + CHUNK - 1) / CHUNK, groups = (call->cols + 31) / 32, half = call->out_stride / 2;
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / chunks, first = item % chunks * (CHUNK / 32), last = first + CHUNK / 32;
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]);
        int8_t *q = (int8_t *)call->out + token * call->out_stride;
        float *scales = (float *)(q + 32 * groups);
        int32_t *sums = (int32_t *)(scales + groups);
        if (last > groups) last = groups;
        for (int64_t g = first; g < last; g++) {
            const int64_t n = call->cols - 32 * g;
            quantize_group(x + 32 * g, n, q + 32 * g, scales + g, sums + g);
            if (!call->wide) continue;
            float rest[32];
            for (int64_t i = 0; i < 32 && i < n; i++) rest[i] = x[32 * g + i] - (float)q[32 * g + i] * scales[g];
            quantize_group(rest, n, q + half + 32 * g, (float *)((char *)(scales + g) + half),
                           (int32_t *)((char *)(sums + g) + half));
        }
    }
}
#endif
