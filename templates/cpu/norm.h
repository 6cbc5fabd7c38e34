/* RMS_NORM: out = w · (x · r), r = 1 / sqrt(mean(x²) + eps). LAYER_NORM: d = x − mean(x), out = w · (d · r) (+ bias),
 * r = 1 / sqrt(mean(d²) + eps). Work items: tokens. cols: elements that are normed together; heads: how many times that
 * in a token (0: once); f0: eps. */
#ifndef N730_NORM_H
#define N730_NORM_H
#include "n730_call.h"
#include "simd.h"

/* Elements of a vector in the file; zeros beyond n. */
N730_FN f32x8 load_vector_part(const uint8_t *p, int64_t n) {
    if (n >= 8) return f8_load_be(p);
    float v[8] = {0};
    for (int64_t i = 0; i < n; i++) v[i] = load_f32_be(p + 4 * i);
    return f8_load(v);
}

/* Sum of x − mean, or of their squares, in eight partial sums. Beyond the end nothing is added. */
N730_FN float sum_of(const float *x, int64_t width, f32x8 mean, int squares) {
    f32x8 sum = f8_zero();
    int64_t k = 0;
    for (; k + 8 <= width; k += 8) {
        f32x8 v = f8_sub(f8_load(x + k), mean);
        sum = f8_add(sum, squares ? f8_mul(v, v) : v);
    }
    if (k < width) { /* adding +0 to a sum that is not −0 changes nothing */
        float rest[8] = {0};
        f8_store(rest, f8_sub(f8_load_part(x + k, width - k), mean));
        for (int64_t i = width - k; i < 8; i++) rest[i] = 0.0f;
        f32x8 v = f8_load(rest);
        sum = f8_add(sum, squares ? f8_mul(v, v) : v);
    }
    return f8_sum(sum);
}

N730_FN void norm(const n730_call *call, int64_t begin, int64_t end, int centred) {
    const int64_t width = call->cols, groups = call->heads > 0 ? call->heads : 1;
    for (int64_t item = begin * groups; item < end * groups; item++) {
        const int64_t token = item / groups, first = item % groups * width;
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + first;
        float *out = (float *)((char *)call->out + token * call->out_stride) + first;
        const f32x8 mean = f8_set(centred ? sum_of(x, width, f8_zero(), 0) / (float)width : 0.0f);
        const f32x8 r = f8_set(1.0f / sqrt_f32(sum_of(x, width, mean, 1) / (float)width + call->f[0]));
        for (int64_t k = 0; k < width; k += 8) {
            const int64_t n = width - k;
            f32x8 y = f8_sub(f8_load_part(x + k, n), mean);
            y = f8_mul(load_vector_part(call->weight + 4 * k, n), f8_mul(y, r));
            if (call->bias) y = f8_add(y, load_vector_part(call->bias + 4 * k, n));
            f8_store_part(out + k, y, n);
        }
    }
}
#endif
