/* ATTENTION: causal, grouped-query, in one pass over the cache by blocks of 64 positions with a running maximum
 * (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018). Work items: tokens × heads. f0: scale; f1: cap of
 * the scores, 0: none.
 *
 * The query heads of one KV head go through the cache together, so that K and V are read and widened once for all of
 * them. Up to eight heads take 1, 2, 4 or 8 lanes (the next power of two); a vector of eight scores holds 8, 4, 2 or 1
 * positions of them: element j × lanes + h of `e` is position j of the block, head h.
 *
 * Order of float operations, which does not depend on the lanes: per block, scores s_j = scale · (q·k_j), where q·k_j
 * is first multiplied by k_j's own scale in an INT8 cache, and which become cap · tanh(s_j / cap) with a cap; new maximum m', c = exp(m − m'); the weights
 * e_j = exp(s_j − m') add to eight partial sums by j mod 8, each first multiplied by c; in an INT8 cache e_j is then
 * multiplied by v_j's scale; out = out · c, then out + e_j · v_j for j in order; at the end out · (1 / sum). */
#ifndef N730_ATTENTION_H
#define N730_ATTENTION_H
#include "activation.h"
#include "cache.h"

enum { BLOCK = 64 };

typedef struct heads {         /* some heads of one token that share a KV head */
    const float *q;            /* [n][dim] */
    float *out;                /* [n][dim] */
    const uint8_t *k, *v;      /* [context][dim] */
    const float *k_scales, *v_scales; /* [context], INT8 caches only */
    int64_t n, dim;
    int64_t start, length;     /* positions that the token sees: start … length − 1 */
    int64_t context;           /* rows of the cache */
    float scale, cap;
} heads;

/* Scores of the vector of positions from j on (below n; those beyond repeat the last one, which the maximum ignores). */
N730_FN f32x8 scores(const heads *h, const uint8_t *k, const float *k_scales, int64_t j, int64_t n, int lanes, int format) {
    const int positions = 8 / lanes;
    const int64_t row = h->dim * cache_element(format);
    const uint8_t *rows[8];
    f32x8 s[8];
    float scale[8];
    N730_UNROLL for (int p = 0; p < positions; p++) {
        const int64_t at = j + p < n ? j + p : n - 1;
        rows[p] = k + at * row;
        _mm_prefetch((const char *)(rows[p] + CACHE_AHEAD), _MM_HINT_T0);
        if (format == CACHE_INT8) N730_UNROLL for (int r = 0; r < lanes; r++) scale[p * lanes + r] = k_scales[at];
    }
    N730_UNROLL for (int i = 0; i < 8; i++) s[i] = f8_zero();
    for (int64_t i = 0; i < h->dim; i += 8)
        N730_UNROLL for (int p = 0; p < positions; p++) {
            f32x8 x = cache_load(rows[p] + i * cache_element(format), format);
            N730_UNROLL for (int r = 0; r < lanes; r++) {
                const float *q = h->q + (r < h->n ? r : 0) * h->dim;
                s[p * lanes + r] = f8_add(s[p * lanes + r], f8_mul(f8_load(q + i), x));
            }
        }
    f32x8 dots = f8_sums(s);
    if (format == CACHE_INT8) dots = f8_mul(f8_load(scale), dots);
    dots = f8_mul(f8_set(h->scale), dots);
    return h->cap == 0.0f ? dots : f8_softcap(dots, f8_set(h->cap));
}

/* out[r][0 … 8w) = out · c[r] + Σ_j e[j][r] v_j for `count` heads and w registers of the head's elements at a time */
N730_FN void accumulate(float *out, int64_t dim, const uint8_t *v, const float *e, int64_t n, const float *c, int count,
                        int w, int lanes, int format) {
    f32x8 sum[4][4];
    N730_UNROLL for (int r = 0; r < count; r++)
        N730_UNROLL for (int i = 0; i < w; i++) sum[r][i] = f8_mul(f8_load(out + r * dim + 8 * i), f8_set(c[r]));
    for (int64_t j = 0; j < n; j++, v += dim * cache_element(format), e += lanes) {
        f32x8 x[4];
        N730_UNROLL for (int i = 0; i < w; i++) x[i] = cache_load(v + 8 * i * cache_element(format), format);
        N730_UNROLL for (int r = 0; r < count; r++) {
            f32x8 weight = f8_set(e[r]);
            N730_UNROLL for (int i = 0; i < w; i++) sum[r][i] = f8_add(sum[r][i], f8_mul(weight, x[i]));
        }
    }
    N730_UNROLL for (int r = 0; r < count; r++)
        N730_UNROLL for (int i = 0; i < w; i++) f8_store(out + r * dim + 8 * i, sum[r][i]);
}

/* The same over the whole head, as many registers at a time as fit. */
N730_FN void accumulate_heads(const heads *h, int64_t first, const uint8_t *v, const float *e, int64_t n,
                              const float *c, int count, int lanes, int format) {
    const int w = count == 4 ? 2 : 4;
    float *out = h->out + first * h->dim;
    int64_t i = 0;
    for (; i + 8 * w <= h->dim; i += 8 * w)
        accumulate(out + i, h->dim, v + i * cache_element(format), e + first, n, c + first, count, w, lanes, format);
    for (; i < h->dim; i += 8)
        accumulate(out + i, h->dim, v + i * cache_element(format), e + first, n, c + first, count, 1, lanes, format);
}

N730_FN void attend(const heads *h, int lanes, int format) {
    const int positions = 8 / lanes;
    float e[BLOCK * 8], c[8];
    f32x8 total[8], maximum = f8_zero();
    N730_UNROLL for (int i = 0; i < lanes; i++) total[i] = f8_zero();
    for (int64_t i = 0; i < h->n * h->dim; i++) h->out[i] = 0.0f;
    for (int64_t first = h->start, next; first < h->length; first = next) {
        next = (first / BLOCK + 1) * BLOCK;
        const int64_t n = (h->length < next ? h->length : next) - first;
        const int64_t row = h->dim * cache_element(format), vectors = (n + positions - 1) / positions;
        const int64_t place = first % h->context; /* a cache that is used in turn holds whole blocks */
        const uint8_t *k = h->k + place * row, *v = h->v + place * row;
        const float *k_scales = format == CACHE_INT8 ? h->k_scales + place : 0;
        f32x8 m = f8_zero();
        for (int64_t i = 0; i < vectors; i++) {
            f32x8 s = scores(h, k, k_scales, i * positions, n, lanes, format);
            f8_store(e + 8 * i, s);
            m = i == 0 ? s : f8_max(s, m);
        }
        m = f8_max_by_lane(m, lanes);
        if (first > h->start) m = f8_max(m, maximum);
        f32x8 change = f8_exp(first > h->start ? f8_sub(maximum, m) : f8_zero());
        maximum = m;
        N730_UNROLL for (int i = 0; i < lanes; i++) total[i] = f8_mul(total[i], change);
        for (int64_t i = 0; i < vectors; i += lanes)
            N730_UNROLL for (int t = 0; t < lanes; t++) {
                if (i + t >= vectors) break;
                float *at = e + 8 * (i + t);
                f8_store(at, f8_exp(f8_sub(f8_load(at), m)));
                for (int64_t z = n * lanes; z < 8 * (i + t + 1); z++) e[z] = 0.0f; /* beyond the last position */
                total[t] = f8_add(total[t], f8_load(at));
            }
        if (format == CACHE_INT8)
            for (int64_t j = 0; j < n; j++)
                N730_UNROLL for (int r = 0; r < lanes; r++) e[j * lanes + r] *= h->v_scales[place + j];
        f8_store(c, change);
        int64_t r = 0;
        if (lanes >= 4)
            for (; r + 4 <= h->n; r += 4) accumulate_heads(h, r, v, e, n, c, 4, lanes, format);
        if (lanes >= 2 && r + 2 <= h->n) {
            accumulate_heads(h, r, v, e, n, c, 2, lanes, format);
            r += 2;
        }
        if (r < h->n) accumulate_heads(h, r, v, e, n, c, 1, lanes, format);
    }
    float sums[64];
    N730_UNROLL for (int i = 0; i < lanes; i++) f8_store(sums + 8 * i, total[i]);
    for (int64_t r = 0; r < h->n; r++) {
        float s[8], *out = h->out + r * h->dim;
        for (int j = 0; j < 8; j++) s[j] = sums[j * lanes + r];
        f32x8 inverse = f8_set(1.0f / f8_sum(f8_load(s)));
        for (int64_t i = 0; i < h->dim; i += 8) f8_store(out + i, f8_mul(f8_load(out + i), inverse));
    }
}

N730_FN void attention(const n730_call *call, int64_t begin, int64_t end, int format) {
    const int64_t dim = call->head_dim, group = call->heads / call->kv_heads;
    for (int64_t item = begin; item < end;) {
        const int64_t token = item / call->heads, head = item % call->heads, seen = call->position + token + 1;
        int64_t n = group - head % group; /* heads left of this KV head */
        if (n > 8) n = 8;
        if (n > end - item) n = end - item;
        const cache_rows k = cache_head(call, call->k_cache, head / group, format);
        const cache_rows v = cache_head(call, call->v_cache, head / group, format);
        const heads h = {
            .q = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + head * dim,
            .out = (float *)((char *)call->out + token * call->out_stride) + head * dim,
            .k = k.elements,
            .v = v.elements,
            .k_scales = k.scales,
            .v_scales = v.scales,
            .n = n,
            .dim = dim,
            .start = call->window > 0 && seen > call->window ? seen - call->window : 0,
            .length = seen,
            .context = call->context,
            .scale = call->f[0],
            .cap = call->f[1],
        };
        if (n > 4)
            attend(&h, 8, format);
        else if (n > 2)
            attend(&h, 4, format);
        else if (n == 2)
            attend(&h, 2, format);
        else
            attend(&h, 1, format);
        item += n;
    }
}
#endif
