/* Mixture of experts: ROUTE, ZERO, EXPERT, COMBINE, GATE. Order of float operations: FORMAT.md, 4. */
#ifndef N730_EXPERTS_H
#define N730_EXPERTS_H
#include "elementwise.h"

/* ROUTE: softmax of the logits, kept for the top_k largest, zero elsewhere. Work items: tokens. */
N730_FN void route(const n730_call *call, int64_t begin, int64_t end) {
    const int64_t n = call->cols;
    for (int64_t token = begin; token < end; token++) {
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]);
        float *chance = (float *)((char *)call->out + token * call->out_stride);
        float most = x[0], sum = 0.0f, kept = 0.0f;
        for (int64_t i = 1; i < n; i++)
            if (x[i] > most) most = x[i];
        for (int64_t i = 0; i < n; i += 8)
            f8_store_part(chance + i, f8_exp(f8_sub(f8_load_part(x + i, n - i), f8_set(most))), n - i);
        for (int64_t i = 0; i < n; i++) sum += chance[i];
        /* The sign says "chosen" from here on. */
        for (int64_t i = 0; i < n; i++) chance[i] = __builtin_fabsf(chance[i] / sum);
        for (int64_t k = 0; k < call->top_k; k++) {
            int64_t best = -1;
            for (int64_t i = 0; i < n; i++)
                if (!__builtin_signbit(chance[i]) && (best < 0 || chance[i] > chance[best])) best = i;
            kept += chance[best];
            chance[best] = -chance[best];
        }
        if (!call->normalized) kept = 1.0f;
        for (int64_t i = 0; i < n; i++) chance[i] = __builtin_signbit(chance[i]) ? -chance[i] / kept : 0.0f;
    }
}

/* ZERO: out = 0. Work items: tokens × chunks of 256 elements. */
N730_FN void zero(const n730_call *call, int64_t begin, int64_t end) {
    const int64_t chunks = (call->cols + CHUNK - 1) / CHUNK;
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item % chunks * CHUNK, n = call->cols - first;
        float *out = (float *)((char *)call->out + item / chunks * call->out_stride) + first;
        for (int64_t i = 0; i < n && i < CHUNK; i++) out[i] = 0.0f;
    }
}

N730_FN float expert_gate(const n730_call *call, int64_t token) {
    return ((const float *)((const char *)call->in[1] + token * call->in_stride[1]))[call->expert];
}

/* EXPERT: the tokens whose gate is not zero, one behind the other. Work items: tokens. */
N730_FN void expert(const n730_call *call, int64_t begin, int64_t end) {
    int64_t to = 0;
    for (int64_t token = 0; token < end; token++) {
        if (!(expert_gate(call, token) != 0.0f)) continue;
        if (token >= begin) { /* whole tokens, which are multiples of 64 bytes */
            const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]);
            float *out = (float *)((char *)call->out + to * call->out_stride);
            for (int64_t i = 0; i < call->in_stride[0] / 4; i += 8) f8_store(out + i, f8_load(x + i));
        }
        to++;
    }
}

/* COMBINE: out of those tokens += gate × in. Work items: chunks of 256 elements. */
N730_FN void combine(const n730_call *call, int64_t begin, int64_t end) {
    int64_t from = 0;
    for (int64_t token = 0; token < call->tokens; token++) {
        const float gate = expert_gate(call, token);
        if (!(gate != 0.0f)) continue;
        const float *x = (const float *)((const char *)call->in[0] + from * call->in_stride[0]);
        float *out = (float *)((char *)call->out + token * call->out_stride);
        int64_t last = end * CHUNK < call->cols ? end * CHUNK : call->cols;
        for (int64_t i = begin * CHUNK; i < last; i += 8) {
            f32x8 sum = f8_load_part(out + i, last - i), term = f8_load_part(x + i, last - i);
            f8_store_part(out + i, f8_add(sum, f8_mul(f8_set(gate), term)), last - i);
        }
        from++;
    }
}

/* GATE: out = x · sigmoid(g), g one number a token. Work items: tokens × chunks of 256 elements. */
N730_FN void gate(const n730_call *call, int64_t begin, int64_t end) {
    const int64_t chunks = (call->cols + CHUNK - 1) / CHUNK;
    for (int64_t item = begin; item < end; item++) {
        int64_t token = item / chunks, first = item % chunks * CHUNK, n = call->cols - first;
        const float *x = (const float *)((const char *)call->in[0] + token * call->in_stride[0]) + first;
        const float *g = (const float *)((const char *)call->in[1] + token * call->in_stride[1]);
        float *out = (float *)((char *)call->out + token * call->out_stride) + first;
        const float by = 1.0f / (1.0f + exp_f32(-g[0]));
        if (n > CHUNK) n = CHUNK;
        for (int64_t i = 0; i < n; i += 8)
            f8_store_part(out + i, f8_mul(f8_load_part(x + i, n - i), f8_set(by)), n - i);
    }
}
#endif
