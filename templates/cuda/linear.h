/* LINEAR with integer weights: out[t][row] = Σ_g S × (ws × xs) in order of groups (+ bias[row]). Work items: tiles of 16 rows.
 *
 * A warp computes a tile, eight groups at a time: lane = 4 × group + quad of rows, so that four lanes read 64
 * bytes of each unit in one piece and sixteen-byte loads fetch the file's bytes exactly once. The integer S of a row
 * and group stays in one lane (formats.h); the products go through 512 bytes of shared memory to the lane that owns the row and
 * adds them in order. A block's warps share the activations: COLUMNS tokens, CHUNK groups at a time, as floats. */
#ifndef N730_CUDA_LINEAR_H
#define N730_CUDA_LINEAR_H
#include "coded.h"

enum { SLOTS = SUPER };   /* groups that a warp computes at once */
enum { RECORD = 36 };     /* floats of one group's activations: 32, their scale, OFFSET × their sum, 2 against bank conflicts */
enum { PART_ROW = 144 };  /* floats of one column's products: 8 groups × 16 rows, 16 against bank conflicts */

/* Activations of Q8 buffers as floats, each in the place of its column, times the power of two that the bit of its field
 * wants. A thread has the same four columns of every group that it brings. */
template <class F, int COLUMNS, int WARPS, int CHUNK>
N730_DEVICE void stage_activations(const n730_cuda_call &call, float *x, int token, int groups, int base, int count) {
    enum { AT_ONCE = 4 * WARPS }; /* groups */
    const int four = threadIdx.x & 7;
    float factor[4];
    int place[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        factor[j] = power_of_two(EXPONENT - F::shift(4 * four + j));
        place[j] = F::place(4 * four + j);
    }
#pragma unroll 1
    for (unsigned i = threadIdx.x >> 3; i < COLUMNS * CHUNK; i += AT_ONCE) {
        const int c = i / CHUNK, g = i % CHUNK;
        float *record = x + i * RECORD;
        if (g >= count) continue;
        float v[4] = {0.0f, 0.0f, 0.0f, 0.0f}, scale = 0.0f, sum = 0.0f;
        if (token + c < call.tokens) {
            const unsigned char *q = call.in[0] + (token + c) * call.in_stride[0];
            const unsigned bytes = __ldg((const unsigned *)q + 8 * (base + g) + four);
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = (float)((int)(bytes << (24 - 8 * j)) >> 24) * factor[j];
            if (four == 0) {
                const unsigned char *side = q + 32ll * groups;
                scale = __ldg((const float *)side + base + g);
                sum = (float)__ldg((const int *)side + groups + base + g);
            }
        }
        if (F::CODED) {
#pragma unroll
            for (int j = 0; j < 4; j++) record[place[j]] = v[j];
        } else {
            store4(record + 4 * four, v[0], v[1], v[2], v[3]);
        }
        if (four == 0) store2(record + 32, scale, F::OFFSET * sum);
    }
}

/* acc[r][c] += field × x of eight places from P on, for four rows and all columns (tokens). */
template <class F, int COLUMNS, int CHUNK, int P>
struct Places {
    template <int HALF>
    static __device__ __forceinline__ void four(const unsigned (&parts)[4][F::PARTS], const float *x, float (&acc)[4][COLUMNS]) {
        enum { J = P + 4 * HALF };
        float4 v[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) v[c] = load4<J>(x + c * CHUNK * RECORD);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const float w0 = __uint_as_float(F::template field<J>(parts[r])), w1 = __uint_as_float(F::template field<J + 1>(parts[r]));
            const float w2 = __uint_as_float(F::template field<J + 2>(parts[r])), w3 = __uint_as_float(F::template field<J + 3>(parts[r]));
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                acc[r][c] = fmaf(w3, v[c].w, fmaf(w2, v[c].z, fmaf(w1, v[c].y, fmaf(w0, v[c].x, acc[r][c]))));
        }
    }
    static __device__ __forceinline__ void add(const unsigned (&words)[4][F::LOADS], const float *x, float (&acc)[4][COLUMNS]) {
        unsigned parts[4][F::PARTS];
#pragma unroll
        for (int r = 0; r < 4; r++) F::template parts<P>(words[r], parts[r]);
        four<0>(parts, x, acc);
        four<1>(parts, x, acc);
        Places<F, COLUMNS, CHUNK, P + 8>::add(words, x, acc);
    }
};
template <class F, int COLUMNS, int CHUNK>
struct Places<F, COLUMNS, CHUNK, GROUP> {
    static __device__ __forceinline__ void add(const unsigned (&)[4][F::LOADS], const float *, float (&)[4][COLUMNS]) {}
};

/* The scales of four rows in the group of this lane's slot, from the first byte of eight groups on. */
template <bool CODED>
struct Scales {
    template <class F>
    static __device__ __forceinline__ int at(int slot, int quad) { return slot * Bytes<F>::STEP + 8 * quad; }
    static __device__ __forceinline__ uint2 load(const unsigned char *scales) { return __ldg((const uint2 *)scales); }
    static __device__ __forceinline__ void of(uint2 loaded, int, int, float (&ws)[4]) {
        halves_to_floats(loaded.x, ws[0], ws[1]);
        halves_to_floats(loaded.y, ws[2], ws[3]);
    }
};
template <>
struct Scales<true> { /* the header of the super-block: its 24 words in as many lanes, read once */
    template <class F>
    static __device__ __forceinline__ int at(int slot, int quad) { return 4 * (4 * slot + quad); }
    static __device__ __forceinline__ unsigned load(const unsigned char *scales) {
        return (threadIdx.x & 31) < SUPER_HEADER / 4 ? __ldg((const unsigned *)scales) : 0u;
    }
    static __device__ __forceinline__ void of(unsigned loaded, int slot, int quad, float (&ws)[4]) {
        float unit[4];
        halves_to_floats(__shfl_sync(N730_WARP, loaded, 2 * quad), unit[0], unit[1]);
        halves_to_floats(__shfl_sync(N730_WARP, loaded, 2 * quad + 1), unit[2], unit[3]);
        const unsigned codes = __shfl_sync(N730_WARP, loaded, SCALE_BYTES / 4 + slot / 2 * 4 + quad) >> (slot % 2 ? 0 : 4) & 0x0f0f0f0fu;
#pragma unroll
        for (int r = 0; r < 4; r++) /* bits 8 … 15 of a float of 32 to 64 count in 2^-10: no integer is converted */
            ws[r] = unit[r] * (__uint_as_float(__byte_perm(codes, 0x42000000u, 0x7504 | r << 4)) - 32.0f);
    }
};

/* The sums S of one group and four rows, times 2^-29 / MULTIPLE and without the offset. `fields`: of those rows; `x`: the record
 * of column 0. */
template <class F, int COLUMNS, int CHUNK>
N730_DEVICE void group_sums(const unsigned char *fields, const float *x, float (&sum)[4][COLUMNS]) {
    unsigned words[4][F::LOADS];
#pragma unroll
    for (int u = 0; u < F::LOADS; u++) {
        const uint4 v = __ldg((const uint4 *)fields + 4 * u);
        words[0][u] = v.x;
        words[1][u] = v.y;
        words[2][u] = v.z;
        words[3][u] = v.w;
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        F::prepare(words[r]);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sum[r][c] = 0.0f;
    }
    Places<F, COLUMNS, CHUNK, 0>::add(words, x, sum);
}

/* Those sums to the products S × (ws × xs). */
template <class F, int COLUMNS, int CHUNK>
N730_DEVICE void group_products(const float (&ws)[4], const float *x, float (&product)[4][COLUMNS]) {
    const float unit = F::MULTIPLE * power_of_two(149 - EXPONENT);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const float2 side = load2<GROUP>(x + c * CHUNK * RECORD); /* scale of the activations, OFFSET × their sum */
#pragma unroll
        for (int r = 0; r < 4; r++) product[r][c] = fmaf(product[r][c], unit, -side.y) * (ws[r] * side.x);
    }
}

template <class F, int COLUMNS, int WARPS, int CHUNK>
N730_DEVICE void linear(const n730_cuda_call &call, int rows, int cols) {
    enum { PAIRS = (COLUMNS + 1) / 2, WIDE = COLUMNS > 1 ? 2 : 1 };
    typedef Scales<F::CODED> S;
    __shared__ __align__(16) float x[COLUMNS * CHUNK * RECORD];
    __shared__ __align__(16) float parts[WARPS][WIDE * PART_ROW];
    const int lane = threadIdx.x & 31, quad = lane & 3, slot = lane >> 2, warp = threadIdx.x >> 5;
    const int row = lane & 15, side = lane >> 4; /* of the sums that this lane owns */
    const int groups = groups_of(cols), token = blockIdx.x * COLUMNS;
    const int tile = call.begin + blockIdx.y * WARPS + warp;
    const unsigned char *weight = call.weight + tile * block_tile_bytes<F>(cols);
    const unsigned char *scales = weight + S::template at<F>(slot, quad), *fields = weight + fields_at<F>(slot) + 16 * quad;
    float *mine = parts[warp] + slot * TILE + 4 * quad;
    const float *owned = parts[warp] + (side < WIDE ? side : 0) * PART_ROW + row;
    float sum[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) sum[i] = 0.0f;
    for (int base = 0; base < groups; base += CHUNK) {
        const int count = at_most(CHUNK, groups - base);
        __syncthreads(); /* the last chunk has been read */
        stage_activations<F, COLUMNS, WARPS, CHUNK>(call, x, token, groups, base, count);
        __syncthreads();
        if (tile >= call.end) continue;
        const float *record = x + slot * RECORD;
#pragma unroll 1
        for (int left = count; left > 0; left -= SLOTS) {
            if (left < SLOTS) { /* lanes without a group take the last one's, and nobody adds what they compute */
                const int back = slot < left ? 0 : slot - left + 1;
                if (!F::CODED) scales -= back * Bytes<F>::STEP;
                fields -= back * Bytes<F>::STEP;
                record -= back * RECORD;
            }
            float product[4][COLUMNS], ws[4];
            const auto loaded = S::load(scales);
            group_sums<F, COLUMNS, CHUNK>(fields, record, product);
            S::of(loaded, slot, quad, ws);
            group_products<F, COLUMNS, CHUNK>(ws, record, product);
            scales += Bytes<F>::SUPERS;
            fields += Bytes<F>::SUPERS;
            record += SLOTS * RECORD;
#pragma unroll
            for (int i = 0; i < PAIRS; i++) {
#pragma unroll
                for (int c = 2 * i; c < 2 * i + WIDE; c++)
                    store4(mine + (c - 2 * i) * PART_ROW, product[0][c], product[1][c], product[2][c], product[3][c]);
                __syncwarp();
                if (side < WIDE) {
                    if (left >= SLOTS) {
#pragma unroll
                        for (int s = 0; s < SLOTS; s++) sum[i] = sum[i] + owned[s * TILE];
                    } else {
                        for (int s = 0; s < left; s++) sum[i] = sum[i] + owned[s * TILE];
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
