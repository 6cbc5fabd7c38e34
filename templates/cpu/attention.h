/* KV_STORE: K and V of each token to the cache, FP16 or FP32. Work items: tokens × kv_heads.
 * ATTENTION: causal, grouped-query, in one pass over the cache by blocks of 64 positions with a running maximum
 * (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018). Work items: tokens × heads. f0: scale.
 *
 * Order of float operations: per block, scores s_j = scale · (q·k_j), new maximum m', c = exp(m − m');
 * the weights e_j = exp(s_j − m') add to eight partial sums by j mod 8, each first multiplied by c;
 * out = out · c, then out + e_j · v_j for j in order; at the end out · (1 / sum). */
#ifndef N730_ATTENTION_H
#define N730_ATTENTION_H
#include "exp.h"
#include "n730_call.h"

enum { BLOCK = 64 };

/* Eight elements of a cache; half: FP16, else FP32. */
N730_FN int64_t cache_bytes(int half) { return half ? 2 : 4; }
N730_FN f32x8 load_cache(const uint8_t *p, int half) { return half ? f8_load_f16(p) : f8_load((const float *)p); }
N730_FN void store_cache(uint8_t *p, f32x8 v, int half) {
    if (half)
        f8_store_f16(p, v);
    else
        f8_store((float *)p, v);
}

N730_FN void kv_store(const n730_call *call, int64_t begin, int64_t end, int half) {
    const int64_t dim = call->head_dim; /* a multiple of 8 */
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / call->kv_heads, head = item % call->kv_heads;
        const float *k = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + head * dim;
        const float *v = (const float *)((const char *)call->in[1] + token * call->in_stride[1]) + head * dim;
        int64_t at = (head * call->context + call->position + token) * dim * cache_bytes(half);
        uint8_t *k_at = (uint8_t *)call->k_cache + at, *v_at = (uint8_t *)call->v_cache + at;
        for (int64_t i = 0; i < dim; i += 8) {
            store_cache(k_at + i * cache_bytes(half), f8_load(k + i), half);
            store_cache(v_at + i * cache_bytes(half), f8_load(v + i), half);
        }
    }
}

N730_FN float dot_cache(const float *q, const uint8_t *k, int64_t dim, int half) {
    f32x8 sum = f8_zero();
    for (int64_t i = 0; i < dim; i += 8)
        sum = f8_add(sum, f8_mul(f8_load(q + i), load_cache(k + i * cache_bytes(half), half)));
    return f8_sum(sum);
}

/* out[0 … 8w) = out · c + Σ_j e[j] v_j, w registers at a time */
N730_FN void accumulate(float *out, const uint8_t *v, int64_t dim, const float *e, int64_t n, float c, int w, int half) {
    f32x8 sum[4];
    N730_UNROLL for (int i = 0; i < w; i++) sum[i] = f8_mul(f8_load(out + 8 * i), f8_set(c));
    for (int64_t j = 0; j < n; j++, v += dim * cache_bytes(half))
        N730_UNROLL for (int i = 0; i < w; i++)
            sum[i] = f8_add(sum[i], f8_mul(f8_set(e[j]), load_cache(v + 8 * i * cache_bytes(half), half)));
    N730_UNROLL for (int i = 0; i < w; i++) f8_store(out + 8 * i, sum[i]);
}

N730_FN void attention(const n730_call *call, int64_t begin, int64_t end, int half) {
    const int64_t dim = call->head_dim, size = cache_bytes(half);
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / call->heads, head = item % call->heads;
        int64_t shared = head / (call->heads / call->kv_heads) * call->context * dim;
        int64_t length = call->position + token + 1;
        const float *q = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + head * dim;
        float *out = (float *)((char *)call->out + token * call->out_stride) + head * dim;
        float e[BLOCK], maximum = 0.0f;
        f32x8 total = f8_zero();
        for (int64_t i = 0; i < dim; i++) out[i] = 0.0f;
        for (int64_t first = 0; first < length; first += BLOCK) {
            const uint8_t *k = (const uint8_t *)call->k_cache + (shared + first * dim) * size;
            const uint8_t *v = (const uint8_t *)call->v_cache + (shared + first * dim) * size;
            const int64_t n = length - first < BLOCK ? length - first : BLOCK;
            float m = 0.0f, c = 1.0f;
            for (int64_t j = 0; j < n; j++) {
                e[j] = call->f[0] * dot_cache(q, k + j * dim * size, dim, half);
                m = j == 0 || e[j] > m ? e[j] : m;
            }
            if (first == 0) {
                maximum = m;
            } else if (m > maximum) {
                c = exp_f32(maximum - m);
                maximum = m;
            }
            total = f8_mul(total, f8_set(c));
            for (int64_t j = 0; j < n; j += 8) {
                f32x8 w = f8_exp(f8_sub(f8_load_part(e + j, n - j), f8_set(maximum)));
                f8_store_part(e + j, w, n - j);
                total = f8_add(total, f8_load_part(e + j, n - j)); /* zero beyond the last position */
            }
            int64_t i = 0;
            for (; i + 32 <= dim; i += 32) accumulate(out + i, v + i * size, dim, e, n, c, 4, half);
            for (; i < dim; i += 8) accumulate(out + i, v + i * size, dim, e, n, c, 1, half);
        }
        float inverse = 1.0f / f8_sum(total);
        for (int64_t i = 0; i < dim; i += 8) f8_store(out + i, f8_mul(f8_load(out + i), f8_set(inverse)));
    }
}
#endif
