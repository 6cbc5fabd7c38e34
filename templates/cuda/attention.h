/* ATTENTION: causal, grouped-query, over the cache by blocks of 64 positions with a running maximum. A block a token and head.
 *
 * The order of float operations is that of templates/cpu/attention.h. Scores: eight lanes a position, one for each of
 * the eight partial sums of q·k, from rows of K that all threads brought into shared memory as floats, 32 columns at a time.
 * With a cap (f1) they become cap · tanh(s / cap). Weights: a thread a position. Output: a thread has every THREADS-th element and adds the positions in order. */
#ifndef N730_CUDA_ATTENTION_H
#define N730_CUDA_ATTENTION_H
#include "activation.h"
#include "cache.h"
#include "norm.h"

enum { BLOCK = 64 };        /* positions */
enum { K_COLUMNS = 32, K_ROW = 40 }; /* columns of K at a time; floats of a row, against bank conflicts */

template <class F, int DIM, int THREADS, bool CAPPED>
N730_DEVICE void attention(const n730_cuda_call &call, int heads, int kv_heads, int window) {
    enum { EACH = (DIM + THREADS - 1) / THREADS, PER = BLOCK * 8 / THREADS };
    __shared__ float q[DIM], keys[BLOCK * K_ROW], score[BLOCK], weight[BLOCK], change, top, inverse;
    const int thread = threadIdx.x, token = blockIdx.x, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const int seen = call.position + token + 1, start = window > 0 && seen > window ? seen - window : 0;
    const unsigned char *k = cache_rows<F>(call.k_cache, call.context, DIM, kv_head);
    const unsigned char *v = cache_rows<F>(call.v_cache, call.context, DIM, kv_head);
    float acc[EACH], total = 0.0f, maximum = 0.0f;
#pragma unroll
    for (int e = 0; e < EACH; e++) acc[e] = 0.0f;
    for (int i = thread; i < DIM; i += THREADS) q[i] = input(call, 0, token)[head * DIM + i];
    for (int first = start, next; first < seen; first = next) {
        next = (first / BLOCK + 1) * BLOCK;
        const int n = at_most(seen, next) - first;
        const long long place = first % call.context; /* a cache that is used in turn holds whole blocks */
        float dot[PER];
#pragma unroll
        for (int i = 0; i < PER; i++) dot[i] = 0.0f;
        for (int base = 0; base < DIM; base += K_COLUMNS) {
            __syncthreads(); /* the last columns of K, and q, are there or done with */
            for (int i = thread; i < BLOCK * (K_COLUMNS / 8); i += THREADS) {
                const int j = i / (K_COLUMNS / 8), d = base + i % (K_COLUMNS / 8) * 8;
                if (j >= n || d >= DIM) continue;
                float eight[8];
                F::load8(k + ((place + j) * DIM + d) * F::BYTES, eight);
#pragma unroll
                for (int e = 0; e < 8; e++) keys[j * K_ROW + d - base + e] = eight[e];
            }
            __syncthreads();
#pragma unroll
            for (int d = 0; d < K_COLUMNS; d += 8) {
                if (base + d >= DIM) break;
                const float mine = q[base + d + thread % 8];
#pragma unroll
                for (int i = 0; i < PER; i++)
                    if (thread / 8 + THREADS / 8 * i < n)
                        dot[i] = dot[i] + mine * keys[(thread / 8 + THREADS / 8 * i) * K_ROW + d + thread % 8];
            }
        }
#pragma unroll
        for (int i = 0; i < PER; i++) {
            const int j = thread / 8 + THREADS / 8 * i;
            float s = sum_of_eight(dot[i]);
            if (thread % 8 || j >= n) continue;
            if (F::SCALED) s = cache_scales(call.k_cache, call.context, DIM, kv_heads, kv_head)[place + j] * s;
            score[j] = CAPPED ? softcap_f32(call.f0 * s, call.f1) : call.f0 * s;
        }
        __syncthreads();
        if (thread < 32) {
            float m = score[thread < n ? thread : 0];
            m = larger(score[thread + 32 < n ? thread + 32 : 0], m);
#pragma unroll
            for (int i = 16; i > 0; i /= 2) m = larger(__shfl_xor_sync(N730_WARP, m, i), m);
            if (first > start) m = larger(m, maximum);
            if (thread == 0) {
                change = exp_f32(first > start ? maximum - m : 0.0f);
                top = m;
            }
            maximum = m;
        }
        __syncthreads();
        if (thread < n) score[thread] = exp_f32(score[thread] - top);
        __syncthreads();
        if (thread < 8) {
            total = total * change;
            for (int j = thread; j < n; j += 8) total = total + score[j];
        }
        if (thread < n)
            weight[thread] = F::SCALED ? score[thread] * cache_scales(call.v_cache, call.context, DIM, kv_heads, kv_head)[place + thread]
                                       : score[thread];
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const int d = thread + e * THREADS;
            if (d >= DIM) break;
            float sum = acc[e] * change;
            const unsigned char *at = v + (place * DIM + d) * F::BYTES;
#pragma unroll 4
            for (int j = 0; j < n; j++) sum = sum + weight[j] * F::load(at + (long long)j * DIM * F::BYTES);
            acc[e] = sum;
        }
    }
    if (thread < 32) {
        total = sum_of_eight(total);
        if (thread == 0) inverse = 1.0f / total;
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < EACH; e++)
        if (thread + e * THREADS < DIM) output(call, token)[head * DIM + thread + e * THREADS] = acc[e] * inverse;
}
#endif
