/* LINEAR with integer weights: out[t][row] = Σ_g S × (ws × xs) in order of groups (+ bias[row]). Work items: tiles of 16 rows.
 *
 * A warp computes a tile, eight groups at a time: lane = 4 × group + quad of rows, so that four lanes read 64
 * bytes of each unit in one piece and sixteen-byte loads fetch the file's bytes exactly once. The integer S of a row
 * and group stays in one lane (formats.h); the products go through 512 bytes of shared memory to the lane that owns the row and
 * adds them in order. A block's warps share the activations: COLUMNS tokens, CHUNK groups at a time, as floats. */
#ifndef N730_CUDA_LINEAR_H
#define N730_CUDA_LINEAR_H
#include "formats.h"

enum { SLOTS = 8 };       /* groups that a warp computes at once */
enum { RECORD = 36 };     /* floats of one group's activations: 32, their scale, OFFSET × their sum, 2 against bank conflicts */
enum { PART_ROW = 144 };  /* floats of one column's products: 8 groups × 16 rows, 16 against bank conflicts */

/* Activations of Q8 buffers as floats, times the power of two that the place of their column's field wants. */
template <class F, int COLUMNS, int CHUNK>
N730_DEVICE void stage_activations(const n730_cuda_call &call, float *x, int token, int groups, int base, int count) {
    for (int i = threadIdx.x; i < COLUMNS * CHUNK * 8; i += blockDim.x) {
        const int c = i / (CHUNK * 8), g = i / 8 % CHUNK, four = i % 8;
        float *record = x + (c * CHUNK + g) * RECORD;
        if (g >= count) continue;
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        float scale = 0.0f, sum = 0.0f;
        if (token + c < call.tokens) {
            const unsigned char *q = call.in[0] + (token + c) * call.in_stride[0];
            const unsigned bytes = __ldg((const unsigned *)q + 8 * (base + g) + four);
            v.x = (float)(int)(signed char)bytes * power_of_two(EXPONENT - F::shift(4 * four));
            v.y = (float)(int)(signed char)(bytes >> 8) * power_of_two(EXPONENT - F::shift(4 * four + 1));
            v.z = (float)(int)(signed char)(bytes >> 16) * power_of_two(EXPONENT - F::shift(4 * four + 2));
            v.w = (float)((int)bytes >> 24) * power_of_two(EXPONENT - F::shift(4 * four + 3));
            if (four == 0) {
                const unsigned char *side = q + 32ll * groups;
                scale = __ldg((const float *)side + base + g);
                sum = (float)__ldg((const int *)side + groups + base + g);
            }
        }
        store4(record + 4 * four, v.x, v.y, v.z, v.w);
        if (four == 0) store2(record + 32, scale, F::OFFSET * sum);
    }
}

/* acc[r][c] += field × x of four columns from J on, for four rows and all columns (tokens). */
template <class F, int COLUMNS, int CHUNK, int J>
struct Columns {
    static __device__ __forceinline__ void add(const unsigned (&words)[4][F::LOADS], const float *x, float (&acc)[4][COLUMNS]) {
        float4 v[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) v[c] = load4(x + c * CHUNK * RECORD + J);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float w0 = __uint_as_float(F::template field<J>(words[r])), w1 = __uint_as_float(F::template field<J + 1>(words[r]));
            const float w2 = __uint_as_float(F::template field<J + 2>(words[r])), w3 = __uint_as_float(F::template field<J + 3>(words[r]));
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                acc[r][c] = fmaf(w3, v[c].w, fmaf(w2, v[c].z, fmaf(w1, v[c].y, fmaf(w0, v[c].x, acc[r][c]))));
        }
        Columns<F, COLUMNS, CHUNK, J + 4>::add(words, x, acc);
    }
};
template <class F, int COLUMNS, int CHUNK>
struct Columns<F, COLUMNS, CHUNK, GROUP> {
    static __device__ __forceinline__ void add(const unsigned (&)[4][F::LOADS], const float *, float (&)[4][COLUMNS]) {}
};

/* The products S × (ws × xs) of one group and four rows. `block`: its bytes; `x`: the record of column 0. */
template <class F, int COLUMNS, int CHUNK>
N730_DEVICE void group_products(const unsigned char *block, int quad, const float *x, float (&product)[4][COLUMNS]) {
    unsigned words[4][F::LOADS];
    const uint2 scales = __ldg((const uint2 *)block + quad);
#pragma unroll
    for (int u = 0; u < F::LOADS; u++) {
        const uint4 v = __ldg((const uint4 *)(block + SCALE_BYTES) + 4 * u + quad);
        words[0][u] = v.x;
        words[1][u] = v.y;
        words[2][u] = v.z;
        words[3][u] = v.w;
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) product[r][c] = 0.0f;
    Columns<F, COLUMNS, CHUNK, 0>::add(words, x, product);
    const unsigned pair[2] = {swap_halves(scales.x), swap_halves(scales.y)};
    float2 side[COLUMNS]; /* scale of the activations, OFFSET × their sum */
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) side[c] = load2(x + c * CHUNK * RECORD + 32);
    const float unit = F::MULTIPLE * power_of_two(149 - EXPONENT);
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const float ws = half_to_float((unsigned short)(r % 2 ? pair[r / 2] >> 16 : pair[r / 2]));
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            product[r][c] = fmaf(product[r][c], unit, -side[c].y) * (ws * side[c].x);
        }
    }
}

template <class F, int COLUMNS, int WARPS, int CHUNK>
N730_DEVICE void linear(const n730_cuda_call &call, int rows, int cols) {
    enum { PAIRS = (COLUMNS + 1) / 2, WIDE = COLUMNS > 1 ? 2 : 1 };
    __shared__ __align__(16) float x[COLUMNS * CHUNK * RECORD];
    __shared__ __align__(16) float parts[WARPS][WIDE * PART_ROW];
    const int lane = threadIdx.x & 31, quad = lane & 3, slot = lane >> 2, warp = threadIdx.x >> 5;
    const int row = lane & 15, side = lane >> 4; /* of the sums that this lane owns */
    const int groups = (cols + GROUP - 1) / GROUP, token = blockIdx.x * COLUMNS;
    const int tile = call.begin + blockIdx.y * WARPS + warp;
    const unsigned char *weight = call.weight + tile * block_tile_bytes<F>(cols);
    float sum[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) sum[i] = 0.0f;
    for (int base = 0; base < groups; base += CHUNK) {
        const int count = at_most(CHUNK, groups - base);
        __syncthreads(); /* the last chunk has been read */
        stage_activations<F, COLUMNS, CHUNK>(call, x, token, groups, base, count);
        __syncthreads();
        if (tile >= call.end) continue;
        for (int g = 0; g < count; g += SLOTS) {
            const int here = at_most(SLOTS, count - g);
            float product[4][COLUMNS];
            if (slot < here)
                group_products<F, COLUMNS, CHUNK>(weight + (long long)(base + g + slot) * F::BLOCK, quad,
                                                  x + (g + slot) * RECORD, product);
#pragma unroll
            for (int i = 0; i < PAIRS; i++) {
#pragma unroll
                for (int c = 2 * i; c < 2 * i + WIDE; c++)
                    if (slot < here)
                        store4(parts[warp] + (c - 2 * i) * PART_ROW + slot * TILE + 4 * quad, product[0][c], product[1][c],
                               product[2][c], product[3][c]);
                __syncwarp();
                if (side < WIDE) {
                    const float *mine = parts[warp] + side * PART_ROW + row;
                    if (here == SLOTS) {
#pragma unroll
                        for (int s = 0; s < SLOTS; s++) sum[i] = sum[i] + mine[s * TILE];
                    } else {
                        for (int s = 0; s < here; s++) sum[i] = sum[i] + mine[s * TILE];
                    }
                }
                __syncwarp();
            }
        }
    }
    const int at = tile * TILE + row;
    if (tile >= call.end || side >= WIDE || at >= rows) return;
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
        if (token + 2 * i + side < call.tokens)
            output(call, token + 2 * i + side)[at] = call.bias ? sum[i] + load_f32_be(call.bias + 4ll * at) : sum[i];
}
#endif
