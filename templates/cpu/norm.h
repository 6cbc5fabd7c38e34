/* RMS_NORM: out = w · (x · r), r = 1 / sqrt(mean(x²) + eps). Work items: tokens. f0: eps. */
#ifndef N730_NORM_H
#define N730_NORM_H
#include "n730_call.h"
#include "simd.h"

N730_FN void rms_norm(const n730_call *call, int64_t begin, int64_t end) {
    const int64_t width = call->cols;
    for (int64_t token = begin; token < end; token++) {
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]);
        float *out = (float *)((char *)call->out + token * call->out_stride);
        f32x8 sum = f8_zero();
        int64_t k = 0;
        for (; k + 8 <= width; k += 8) {
            f32x8 v = f8_load(x + k);
            sum = f8_add(sum, f8_mul(v, v));
        }
        if (k < width) { /* adding +0 to a sum of squares changes nothing */
            f32x8 v = f8_load_part(x + k, width - k);
            sum = f8_add(sum, f8_mul(v, v));
        }
        const float r = 1.0f / sqrt_f32(f8_sum(sum) / (float)width + call->f[0]);
        for (k = 0; k + 8 <= width; k += 8)
            f8_store(out + k, f8_mul(f8_load_be(call->weight + 4 * k), f8_mul(f8_load(x + k), f8_set(r))));
        for (; k < width; k++) out[k] = load_f32_be(call->weight + 4 * k) * (x[k] * r);
    }
}
#endif
