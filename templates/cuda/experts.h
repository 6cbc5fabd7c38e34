/* Mixture of experts: ROUTE a warp a token, EXPERT a block a token, COMBINE, ZERO and GATE a thread an element. Order of float
 * operations: FORMAT.md, 4. The host looks at the gates: a group of steps runs where some token chose its expert. */
#ifndef N730_CUDA_EXPERTS_H
#define N730_CUDA_EXPERTS_H
#include "exp.h"

N730_DEVICE bool negative(float v) { return __float_as_uint(v) >> 31; }
N730_DEVICE float with_sign(float v, unsigned sign) { return __uint_as_float((__float_as_uint(v) & 0x7fffffffu) | sign << 31); }

/* Softmax of the logits, kept for the TOP largest, zero elsewhere. */
template <int EXPERTS, int TOP, bool NORMALIZED>
N730_DEVICE void route(const n730_cuda_call &call) {
    __shared__ float chance[EXPERTS], kept;
    const int token = blockIdx.x;
    const float *x = input(call, 0, token);
    float most = x[0];
    for (int i = 1; i < EXPERTS; i++) most = x[i] > most ? x[i] : most;
    for (int i = threadIdx.x; i < EXPERTS; i += 32) chance[i] = exp_f32(x[i] - most);
    __syncwarp();
    if (threadIdx.x == 0) {
        float sum = 0.0f, all = 0.0f;
        for (int i = 0; i < EXPERTS; i++) sum = sum + chance[i];
        for (int i = 0; i < EXPERTS; i++) chance[i] = with_sign(chance[i] / sum, 0);
        for (int k = 0; k < TOP; k++) { /* the sign says "chosen", of NaN too */
            int best = -1;
            for (int i = 0; i < EXPERTS; i++)
                if (!negative(chance[i]) && (best < 0 || chance[i] > chance[best])) best = i;
            all = all + chance[best];
            chance[best] = with_sign(chance[best], 1);
        }
        kept = NORMALIZED ? all : 1.0f;
    }
    __syncwarp();
    for (int i = threadIdx.x; i < EXPERTS; i += 32)
        output(call, token)[i] = negative(chance[i]) ? with_sign(chance[i], 0) / kept : 0.0f;
}

N730_DEVICE float gate_of(const n730_cuda_call &call, int token) { return input(call, 1, token)[call.expert]; }

/* Which of the tokens that chose the expert a token is, or −1. */
N730_DEVICE int rank_of(const n730_cuda_call &call, int token) {
    int rank = 0;
    if (!(gate_of(call, token) != 0.0f)) return -1;
    for (int t = 0; t < token; t++) rank += gate_of(call, t) != 0.0f;
    return rank;
}

N730_DEVICE void expert_tokens(const n730_cuda_call &call) {
    const int rank = rank_of(call, blockIdx.x);
    if (rank < 0) return;
    const uint4 *x = (const uint4 *)(call.in[0] + blockIdx.x * call.in_stride[0]); /* tokens are multiples of 64 bytes */
    uint4 *out = (uint4 *)(call.out + rank * call.out_stride);
    for (int i = threadIdx.x; i < call.in_stride[0] / 16; i += blockDim.x) out[i] = x[i];
}

N730_DEVICE void combine(const n730_cuda_call &call, int width) {
    const int token = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x, rank = rank_of(call, token);
    if (rank < 0 || i >= width) return;
    float *out = output(call, token);
    out[i] = out[i] + gate_of(call, token) * input(call, 0, rank)[i];
}

N730_DEVICE void zero(const n730_cuda_call &call, int width) {
    const int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i < width) output(call, blockIdx.x)[i] = 0.0f;
}

N730_DEVICE void gate(const n730_cuda_call &call, int width) {
    const int token = blockIdx.x, i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i < width) output(call, token)[i] = input(call, 0, token)[i] * (1.0f / (1.0f + exp_f32(-input(call, 1, token)[0])));
}
#endif
