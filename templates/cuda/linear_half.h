/* LINEAR with F16 or BF16 weights: even and odd columns in two sums of their own, then even + odd (+ bias). Work items: tiles.
 *
 * A warp computes a tile; lane = 16 × parity + row. Sixteen columns are 512 contiguous bytes, one 16-byte load a lane, and
 * change hands in shared memory. The next sixteen are on their way meanwhile. A block's warps share the activations. */
#ifndef N730_CUDA_LINEAR_HALF_H
#define N730_CUDA_LINEAR_HALF_H
#include "formats.h"

enum { STEP = 16 }; /* columns at once */

/* x[c][parity][…]: columns base … base + CHUNK − 1 of COLUMNS tokens; zeros beyond the last column and token */
template <int COLUMNS, int CHUNK>
N730_DEVICE void stage_floats(const n730_cuda_call &call, float *x, int token, int cols, int base) {
    for (int i = threadIdx.x; i < COLUMNS * CHUNK; i += blockDim.x) {
        const int c = i / CHUNK, k = i % CHUNK;
        const bool there = base + k < cols && token + c < call.tokens;
        x[c * CHUNK + k % 2 * (CHUNK / 2) + k / 2] = there ? __ldg(input(call, 0, token + c) + base + k) : 0.0f;
    }
}

/* sum[c] += w × x of every other of `count` columns. What lies beyond adds nothing, not even a zero. */
template <class F, int COLUMNS, int CHUNK>
N730_DEVICE void add_columns(const unsigned short *bits, const float *x, int count, float (&sum)[COLUMNS]) {
#pragma unroll
    for (int i = 0; i < STEP / 2; i += 4) {
        float4 v[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) v[c] = load4<0>(x + c * CHUNK + i);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (2 * (i + j) >= count) return;
            const float w = F::value((unsigned short)__byte_perm(bits[2 * TILE * (i + j)], 0, 0x4401));
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                sum[c] = sum[c] + w * (j == 0 ? v[c].x : j == 1 ? v[c].y : j == 2 ? v[c].z : v[c].w);
        }
    }
}

template <class F, int COLUMNS, int WARPS, int CHUNK>
N730_DEVICE void linear_half(const n730_cuda_call &call, int rows, int cols) {
    __shared__ __align__(16) float x[COLUMNS * CHUNK];
    __shared__ uint4 staged[WARPS][32];
    const int lane = threadIdx.x & 31, row = lane & 15, parity = lane >> 4, warp = threadIdx.x >> 5;
    const int token = blockIdx.x * COLUMNS, tile = call.begin + blockIdx.y * WARPS + warp;
    const uint4 *weight = (const uint4 *)(call.weight + tile * (2ll * TILE * cols)) + lane; /* column lane / 2 */
    const uint4 zero = {0, 0, 0, 0};
    float sum[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) sum[c] = 0.0f;
    for (int base = 0; base < cols; base += CHUNK) {
        __syncthreads();
        stage_floats<COLUMNS, CHUNK>(call, x, token, cols, base);
        __syncthreads();
        if (tile >= call.end) continue;
        const int last = at_most(base + CHUNK, cols);
        uint4 next = base + lane / 2 < cols ? __ldg(weight + 2 * base) : zero;
        for (int k = base; k < last; k += STEP) {
            staged[warp][lane] = next;
            __syncwarp();
            if (k + STEP < last) next = k + STEP + lane / 2 < cols ? __ldg(weight + 2 * (k + STEP)) : zero;
            const unsigned short *bits = (const unsigned short *)staged[warp] + parity * TILE + row;
            const float *at = x + parity * (CHUNK / 2) + (k - base) / 2;
            if (k + STEP <= cols)
                add_columns<F, COLUMNS, CHUNK>(bits, at, STEP, sum);
            else
                add_columns<F, COLUMNS, CHUNK>(bits, at, cols - k - parity, sum);
            __syncwarp();
        }
    }
    if (tile >= call.end) return;
    const int at = tile * TILE + row;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const float both = sum[c] + __shfl_xor_sync(N730_WARP, sum[c], 16);
        if (parity == 0 && at < rows && token + c < call.tokens)
            output(call, token + c)[at] = call.bias ? both + load_f32_be(call.bias + 4ll * at) : both;
    }
}
#endif
