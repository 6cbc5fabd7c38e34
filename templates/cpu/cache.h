/* The KV cache in memory, and KV_STORE: K and V of each token to it. Work items: tokens × kv_heads.
 *
 * K, then V, each [kv_heads][context][head_dim] elements; in an INT8 cache each is followed by its f32 scales,
 * [kv_heads][context]. Native byte order: a cache never leaves memory. */
#ifndef N730_CACHE_H
#define N730_CACHE_H
#include "n730_call.h"
#include "simd.h"

enum { CACHE_F32 = 0, CACHE_F16 = 1, CACHE_INT8 = 3 }; /* as formats of weights are numbered */
enum { CACHE_AHEAD = 1024 }; /* bytes that prefetch runs ahead: the hardware's stops at each 4 KiB page */

typedef struct cache_rows {
    uint8_t *elements; /* [context][head_dim] */
    float *scales;     /* [context], or NULL */
} cache_rows;

N730_FN int64_t cache_element(int format) { return format == CACHE_F32 ? 4 : format == CACHE_F16 ? 2 : 1; }
N730_FN cache_rows cache_head(const n730_call *call, void *base, int64_t kv_head, int format) {
    const int64_t row = call->head_dim * cache_element(format);
    uint8_t *start = (uint8_t *)base;
    cache_rows rows = {start + kv_head * call->context * row, 0};
    if (format == CACHE_INT8) rows.scales = (float *)(void *)(start + call->kv_heads * call->context * row) + kv_head * call->context;
    return rows;
}
N730_FN f32x8 cache_load(const uint8_t *p, int format) {
    return format == CACHE_F32 ? f8_load(p) : format == CACHE_F16 ? f8_load_f16(p) : f8_load_i8(p);
}

/* n elements (a multiple of 8) to bytes with one scale, as QUANTIZE does with a group. */
N730_FN float cache_quantize(const float *x, int64_t n, uint8_t *out) {
    f32x8 m = f8_zero();
    for (int64_t i = 0; i < n; i += 8) m = f8_max(f8_abs(f8_load(x + i)), m); /* NaN leaves m alone */
    const float most = f8_hmax(m);
    const f32x8 inverse = f8_set(most > 0.0f ? 127.0f / most : 0.0f);
    for (int64_t i = 0; i < n; i += 8) i8_store_bytes(out + i, f8_to_q8(f8_load(x + i), inverse));
    return most / 127.0f;
}

N730_FN void cache_put(const float *x, cache_rows rows, int64_t position, int64_t dim, int format) {
    uint8_t *at = rows.elements + position * dim * cache_element(format);
    if (format == CACHE_INT8) {
        rows.scales[position] = cache_quantize(x, dim, at);
        return;
    }
    for (int64_t i = 0; i < dim; i += 8)
        if (format == CACHE_F16)
            f8_store_f16(at + 2 * i, f8_load(x + i));
        else
            f8_store(at + 4 * i, f8_load(x + i));
}

N730_FN void kv_store(const n730_call *call, int64_t begin, int64_t end, int format) {
    const int64_t dim = call->head_dim; /* a multiple of 8 */
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / call->kv_heads, head = item % call->kv_heads;
        const int64_t position = (call->position + token) % call->context;
        const float *k = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + head * dim;
        const float *v = (const float *)((const char *)call->in[1] + token * call->in_stride[1]) + head * dim;
        cache_put(k, cache_head(call, call->k_cache, head, format), position, dim, format);
        cache_put(v, cache_head(call, call->v_cache, head, format), position, dim, format);
    }
}
#endif
